//! Writes the tables of the page. On a narrow screen a row becomes a list, labelled by the `data-label` of its cells.

use std::collections::BTreeMap;

use maud::{Markup, html};
use vhashify_sys::shown::Shown;

use super::part;
use super::plots::moment;
use crate::outcome::numbers::{bytes, grouped};
use crate::report::{OldCopy, PastRun, StoreReport, Unshared};

/// The most items of a list of files or errors.
const MOST_ITEMS: usize = 20;

/// A cell that holds a number.
fn number(label: &str, value: &str) -> Markup {
    html! { td.number data-label=(label) { (value) } }
}

/// A head for a column of text and others of numbers.
fn head(labels: &[&str]) -> Markup {
    html! {
        thead {
            tr {
                @for (at, label) in labels.iter().enumerate() {
                    th.number[at > 0] scope="col" { (label) }
                }
            }
        }
    }
}

fn bytes_or_unknown(count: Option<u64>) -> String {
    count.map_or_else(|| "unknown".to_owned(), bytes)
}

/// The costs of each guest.
pub fn guests(report: &StoreReport) -> Markup {
    let widest = report.guests.iter().map(|guest| guest.bytes).max();
    let widest = widest.unwrap_or(0);
    html! {
        table {
            (head(&["Guest", "Files", "Alone", "Shared", "Private", "Its share", "In cache"]))
            tbody {
                @for guest in &report.guests {
                    @let shared = guest.fair_share_bytes.saturating_sub(guest.private_bytes);
                    tr {
                        th scope="row" {
                            span.path title=(guest.vdir) { (guest.name) }
                            div.bar {
                                (part("private", "private", guest.private_bytes, widest))
                                (part("shared", "its part of what is shared", shared, widest))
                                (part("saved", "saved", guest.bytes.saturating_sub(guest.fair_share_bytes), widest))
                            }
                        }
                        (number("Files", &grouped(guest.files)))
                        (number("Alone", &bytes(guest.bytes)))
                        (number("Shared", &bytes(guest.shared_bytes)))
                        (number("Private", &bytes(guest.private_bytes)))
                        (number("Its share", &bytes(guest.fair_share_bytes)))
                        (number("In cache", &bytes_or_unknown(guest.page_cache.map(|cache| cache.bytes))))
                    }
                }
            }
        }
    }
}

/// The objects that save most.
pub fn objects(report: &StoreReport) -> Markup {
    if report.objects.is_empty() {
        return html! { p.nothing { "Nothing is shared yet." } };
    }
    html! {
        table {
            (head(&["File", "Guests", "Size", "Saved", "In cache"]))
            tbody {
                @for object in &report.objects {
                    tr {
                        th scope="row" {
                            span.path { (object.path) } " "
                            span.soft.small { "in " bdi { (object.guest) } }
                        }
                        (number("Guests", &grouped(object.guests)))
                        (number("Size", &bytes(object.bytes)))
                        (number("Saved", &bytes(object.saved_bytes)))
                        (number("In cache", &bytes_or_unknown(object.page_cache_bytes)))
                    }
                }
            }
        }
    }
}

/// The files that look alike but are not shared, by reason.
pub fn unshared(report: &StoreReport) -> Markup {
    html! {
        p.soft.small {
            "Files of different guests with the same path and size. They were not read for this, so that "
            "some may differ after all; bytes are what sharing them would save at most."
        }
        @if report.unshared.occurred().next().is_none() {
            p.nothing { "There is nothing left." }
        } @else {
            table {
                (head(&["Why", "Files", "Bytes"]))
                tbody {
                    @for (why, count) in report.unshared.occurred() {
                        @let (what, advice) = words(why);
                        tr {
                            th scope="row" { (what) br; span.soft.small { (advice) } }
                            (number("Files", &grouped(count.files)))
                            (number("Bytes", &bytes(count.bytes)))
                        }
                    }
                }
            }
        }
    }
}

/// A reason in words, and its cause or what to do about it.
fn words(why: Unshared) -> (&'static str, &'static str) {
    match why {
        Unshared::NotYet => (
            "Not yet",
            "New or changed since the last run, open for writing then, left out by --exclude-from, or different inside.",
        ),
        Unshared::Excluded => (
            "Excluded",
            "By a pattern, or as configuration of a package. A line in apps/vunify/exclude takes it in.",
        ),
        Unshared::Mtime => (
            "Only the time of modification differs",
            "vhashify -n --ignore-mtime --all says what giving it up would save.",
        ),
        Unshared::Owner => (
            "Owner, mode or attributes differ",
            "They cannot be one file, because a file has one owner.",
        ),
        Unshared::Sparse => (
            "With holes",
            "Images and databases, which are written in place.",
        ),
        Unshared::SpecialBits => (
            "Setuid, setgid or sticky",
            "A package manager takes the mode from all links of such a file before it replaces it.",
        ),
        Unshared::LinkedElsewhere => (
            "Has a name outside of the guest",
            "A hard link to it lies where no guest is, or in another guest.",
        ),
    }
}

/// The entries that a run left as they were, by the reasons in its own report.
pub fn skipped(run: Option<&PastRun>) -> Markup {
    let Some(run) = run else {
        return html! { p.nothing { "The index remembers no run." } };
    };
    if run.skipped.is_empty() {
        return html! { p.nothing { "Nothing." } };
    }
    let bytes_of = |reason: &String| {
        let known = run.skipped_bytes.get(reason);
        known.map_or_else(|| "–".to_owned(), |&count| bytes(count))
    };
    let mut reasons: Vec<(&String, u64)> = run
        .skipped
        .iter()
        .map(|(reason, &count)| (reason, count))
        .collect();
    reasons.sort_by_key(|&(reason, count)| (std::cmp::Reverse(count), reason));
    html! {
        p.soft.small { "Of the run of " (moment(run)) ". An excluded directory counts as one entry." }
        table {
            (head(&["Why", "Entries", "Bytes"]))
            tbody {
                @for (reason, count) in reasons {
                    tr {
                        th scope="row" { (reason.replace('-', " ")) }
                        (number("Entries", &grouped(count)))
                        (number("Bytes", &bytes_of(reason)))
                    }
                }
            }
        }
    }
}

/// The last runs, the latest first.
pub fn runs(runs: &[PastRun]) -> Markup {
    /// Fewer than the plots show.
    const MOST: usize = 10;
    if runs.is_empty() {
        return html! { p.nothing { "The index remembers no run." } };
    }
    html! {
        table {
            (head(&["Run", "Time", "Guests", "Files", "Read", "Unified", "Saved", "Failed"]))
            tbody {
                @for run in runs.iter().rev().take(MOST) {
                    tr {
                        th scope="row" { (moment(run)) }
                        (number("Time", &format!("{:.1} s", run.seconds)))
                        (number("Guests", &grouped(run.guests)))
                        (number("Files", &grouped(run.counts.files_scanned)))
                        (number("Read", &bytes(run.counts.bytes_hashed)))
                        (number("Unified", &grouped(run.counts.files_unified)))
                        (number("Saved", &bytes(run.counts.bytes_saved)))
                        (number("Failed", &grouped(run.errors)))
                    }
                }
            }
        }
    }
}

/// Processes that still map replaced files.
pub fn processes(report: &StoreReport) -> Markup {
    let old = &report.old_copies;
    html! {
        @if old.processes.is_empty() {
            p.nothing { "None: every running process uses the shared files." }
        } @else {
            p.soft.small {
                "They opened these files before they were unified and keep the old ones until they end. "
                "Files that several of them use are counted for each."
            }
            table {
                (head(&["Process", "Files", "Memory", "Disk"]))
                tbody {
                    @for process in &old.processes {
                        tr {
                            th scope="row" {
                                span.path { (process.command) } " "
                                span.soft.small { (process.process) " in " bdi { (process.guest) } }
                                details {
                                    summary { "Which files" }
                                    ul {
                                        @for file in process.files.iter().take(MOST_ITEMS) {
                                            li { (old_copy(file)) }
                                        }
                                        (more(process.files.len()))
                                    }
                                }
                            }
                            (number("Files", &grouped(process.files.len() as u64)))
                            (number("Memory", &bytes_or_unknown(process.page_cache_bytes())))
                            (number("Disk", &bytes(process.bytes())))
                        }
                    }
                }
            }
        }
        @if old.unseen_processes > 0 {
            p.soft.small {
                "Processes that could not be looked at: " (grouped(old.unseen_processes)) "."
            }
        }
    }
}

fn old_copy(file: &OldCopy) -> Markup {
    html! {
        span.path { (file.path) }
        @if file.is_older { span.soft.small { " an older version" } }
    }
}

/// The files and directories that could not be read.
pub fn errors(report: &StoreReport) -> Markup {
    // One line for each path: a directory that fails as a whole may have hundreds of errors.
    let errors: BTreeMap<String, &str> = report
        .errors
        .iter()
        .map(|error| (Shown::path(&error.path).to_string(), error.reason.as_str()))
        .collect();
    html! {
        ul {
            @for (path, reason) in errors.iter().take(MOST_ITEMS) {
                li { span.path { (path) } ": " (reason) }
            }
            (more(errors.len()))
        }
    }
}

/// The last item of a list, if it has more than it shows.
fn more(all: usize) -> Markup {
    html! {
        @if all > MOST_ITEMS { li.soft { "and " (grouped((all - MOST_ITEMS) as u64)) " more" } }
    }
}
