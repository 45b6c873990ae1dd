//! Shows what a store saves in four numbers and a bar.

use maud::{Markup, html};

use super::{part, percent};
use crate::outcome::numbers::bytes;
use crate::report::StoreReport;

/// The four numbers.
pub fn figures(report: &StoreReport) -> Markup {
    let cost = &report.store;
    let count = report.guests.len();
    let guests = if count == 1 { "guest" } else { "guests" };
    html! {
        div.figures {
            section {
                h3 { "Saved on disk" }
                p.figure { (bytes(cost.saved_bytes)) }
                p.soft.small {
                    (format!("{:.0} %", percent(cost.saved_bytes, cost.unshared_bytes)))
                    " of the " (bytes(cost.unshared_bytes)) " that " (count) " " (guests)
                    " would need without sharing"
                }
            }
            (page_cache(report))
            (restart(report))
        }
    }
}

fn page_cache(report: &StoreReport) -> Markup {
    let Some(cache) = report.store.page_cache else {
        let why = report.page_cache_unknown.as_deref().unwrap_or_default();
        return html! {
            section {
                h3 { "Saved in page cache" }
                p.figure { "unknown" }
                p.soft.small {
                    "This kernel tells neither by cachestat nor by mincore what is in the page cache: "
                    (why)
                }
            }
        };
    };
    html! {
        section {
            h3 { "Saved in page cache now" }
            p.figure { (bytes(cache.saved_bytes)) }
            p.soft.small {
                (bytes(cache.bytes)) " are in memory, " (bytes(cache.shared_bytes))
                " of it shared; as much use of separate copies would take "
                (bytes(cache.bytes + cache.saved_bytes))
            }
        }
        section {
            h3 { "If all files were read" }
            p.figure { (bytes(cache.full_unshared_bytes.saturating_sub(cache.full_bytes))) " less" }
            p.soft.small {
                (bytes(cache.full_bytes)) " of page cache instead of "
                (bytes(cache.full_unshared_bytes)) " hold every file of every guest"
            }
        }
    }
}

fn restart(report: &StoreReport) -> Markup {
    let old = &report.old_copies;
    let count = old.processes.len();
    html! {
        section {
            h3 { "A restart would free" }
            @if count == 0 {
                p.figure { "nothing" }
                p.soft.small { "No running process uses a copy that has been replaced" }
            } @else {
                p.figure { (bytes(old.page_cache_bytes.unwrap_or(old.bytes))) }
                p.soft.small {
                    @if old.page_cache_bytes.is_some() { "of memory, and " (bytes(old.bytes)) " of disk" }
                    @else { "of disk, and the memory that they take" }
                    ", which " (count) @if count == 1 { " process keeps" } @else { " processes keep" }
                    " of what was replaced"
                }
            }
        }
    }
}

/// A bar of the bytes that all guests would need: private, shared and saved.
pub fn disk(report: &StoreReport) -> Markup {
    let cost = &report.store;
    let whole = cost.unshared_bytes;
    let private = whole.saturating_sub(cost.saved_bytes + cost.bytes);
    let parts = [
        ("private", "private to one guest", private),
        ("shared", "shared, kept once", cost.bytes),
        ("saved", "saved", cost.saved_bytes),
    ];
    html! {
        section {
            h3 { "Disk" }
            div.bar.large {
                @for (class, what, size) in parts { (part(class, what, size, whole)) }
            }
            ul.legend {
                @for (class, what, size) in parts {
                    li { i class=(class) {} (bytes(size)) " " (what) }
                }
            }
        }
    }
}
