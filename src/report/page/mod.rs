//! Writes [`StoreReport`]s as an HTML page for an administrator.
//!
//! The page is a single file. It has no script, font, picture or network address, and its content security policy forbids
//! them. Colours follow the reader's light or dark scheme, and on a narrow screen tables become lists.
//!
//! `maud` escapes every text in the page, whoever chose it, and a tag that is not closed does not compile. Bars and
//! columns are elements whose size is a percentage, so that their text stays text at any width. A plotting library
//! would bring axes and fonts that this page does not need.
//!
//! ```text
//! page    head, style, one part for each store
//!  ├ figures   savings, in four numbers and a bar
//!  ├ tables    guests, objects, unshared files, runs, processes, errors
//!  └ plots     the last runs
//! ```

mod figures;
mod plots;
mod tables;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::StoreReport;
use crate::outcome::numbers::grouped;

const STYLE: &str = include_str!("style.css");

/// Lets a browser fetch and run nothing, even if a name in the page tries to.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Where and when a page was made.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The host's name.
    pub host: &'a str,
    /// Seconds since 1970.
    pub seconds: i64,
}

/// Writes the page.
#[must_use]
pub fn page(reports: &[StoreReport], origin: Origin<'_>) -> String {
    let body = html! {
        header {
            h1 { "What guests share on " (origin.host) }
            p.soft {
                (date(origin.seconds)) " · vhashify " (env!("CARGO_PKG_VERSION"))
            }
        }
        main {
            @for report in reports { (store(report)) }
            @if reports.is_empty() {
                section { p.nothing { "No store is known, so nothing is shared." } }
            }
        }
        (explanations())
    };
    document(&format!("vhashify on {}", origin.host), &body).into_string()
}

/// A whole document around `body`.
fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

fn store(report: &StoreReport) -> Markup {
    let cost = &report.store;
    html! {
        h2 { "Store " span.path { (cost.path) } }
        (figures::figures(report))
        (figures::disk(report))
        section {
            h3 { "Guests" }
            (tables::guests(report))
        }
        section {
            h3 { "Objects that save most" }
            p.soft.small {
                (grouped(cost.objects)) " objects are linked by these guests"
                @if cost.unlinked_objects > 0 {
                    "; " (grouped(cost.unlinked_objects)) " more by none of them (" code { "vhashify gc" }
                    " removes those that no guest has)"
                }
                "."
            }
            (tables::objects(report))
        }
        section {
            h3 { "What looks alike and is not shared" }
            (tables::unshared(report))
        }
        section {
            h3 { "The last runs" }
            (plots::runs(&report.runs))
            (tables::runs(&report.runs))
        }
        section {
            h3 { "What the last run left as it is" }
            (tables::skipped(report.runs.last()))
        }
        section {
            h3 { "Processes that still use old copies" }
            (tables::processes(report))
        }
        @if !report.errors.is_empty() {
            section {
                h3.warn { "What could not be read" }
                (tables::errors(report))
            }
        }
    }
}

fn explanations() -> Markup {
    html! {
        footer.soft.small {
            p {
                "Alone: what a guest would need without sharing. Its share: what is its own and, of each "
                "shared file, its part. Disk is what the filesystem allocated; page cache is what the "
                "kernel holds of these files in memory, or had when the page was made."
            }
        }
    }
}

/// A moment in this host's time zone, to the minute.
fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| String::new(),
        |moment| {
            let there = moment.to_zoned_datetime(jiff::tz::TimeZone::system());
            there.strftime("%Y-%m-%d %H:%M").to_string()
        },
    )
}

/// `part` of `whole` in percent, for a width; 0 if `whole` is 0.
#[allow(clippy::cast_precision_loss)] // A width on the screen needs fewer digits.
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}

/// A part of a bar.
fn part(class: &str, what: &str, bytes: u64, whole: u64) -> Markup {
    let width = percent(bytes, whole);
    html! {
        @if bytes > 0 {
            span class=(class) title=(what) style=(format!("width:{width:.3}%")) {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Origin, page};
    use crate::report::{GuestCost, StoreReport};

    const ORIGIN: Origin<'_> = Origin {
        host: "<host>",
        seconds: 1_700_000_000,
    };

    #[test]
    fn what_the_kernel_does_not_tell_is_said_to_be_unknown() {
        let report = StoreReport {
            guests: vec![GuestCost::default()],
            page_cache_unknown: Some("function not implemented".to_owned()),
            ..StoreReport::default()
        };
        let page = page(&[report], ORIGIN);
        for part in [
            "<p class=\"figure\">unknown</p>",
            "cachestat nor by mincore",
            "function not implemented",
            "data-label=\"In cache\">unknown</td>",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
    }

    #[test]
    fn a_host_without_anything_has_a_page_too() {
        let nothing = page(&[], ORIGIN);
        assert!(nothing.contains("No store is known"));
        assert!(nothing.contains("vhashify on &lt;host&gt;"));
        let empty = page(&[StoreReport::default()], ORIGIN);
        assert!(empty.contains("The index remembers no run"));
        assert!(!empty.contains("NaN") && !empty.contains("inf%"), "{empty}");
    }
}
