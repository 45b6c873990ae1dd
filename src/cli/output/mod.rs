//! Results as text for people: short, aligned, within 80 columns.

use std::fmt::Write as _;

use crate::outcome::numbers::{bytes, grouped};
use crate::outcome::{FileError, RunReport};
use crate::report::StoreReport;
use crate::store::GcReport;
use crate::unify::DeunifyReport;
use crate::verify::VerifyReport;

/// What a command's result looks like.
pub trait Text {
    /// As text; `is_verbose` adds what is not needed when all is well.
    fn text(&self, is_verbose: bool) -> String;
    /// What failed.
    fn errors(&self) -> Vec<&FileError>;
}

impl Text for RunReport {
    fn text(&self, is_verbose: bool) -> String {
        let verb = if self.dry_run {
            "would be unified"
        } else {
            "unified"
        };
        let mut lines = vec![
            format!(
                "{} guests, {} files, {} in {:.1} s",
                grouped(self.guests.len() as u64),
                grouped(self.counts.files_scanned),
                bytes(self.counts.bytes_scanned),
                self.seconds.total
            ),
            format!(
                "{} files {verb}, {} saved, {} new objects; protection: {}",
                grouped(self.counts.files_unified),
                bytes(self.counts.bytes_saved),
                grouped(self.counts.objects_created),
                self.protection.join(", ")
            ),
        ];
        let skipped: u64 = self.skipped.occurred().map(|(_, count)| count).sum();
        if is_verbose {
            lines.push(format!(
                "{} files read, {}",
                grouped(self.counts.files_hashed),
                bytes(self.counts.bytes_hashed)
            ));
            lines.extend(
                self.skipped.occurred().map(|(skip, count)| {
                    format!("{:>12} skipped: {}", grouped(count), skip.name())
                }),
            );
        } else if skipped > 0 {
            lines.push(format!(
                "{} entries skipped (-v says why)",
                grouped(skipped)
            ));
        }
        lines.join("\n")
    }

    fn errors(&self) -> Vec<&FileError> {
        self.errors.iter().collect()
    }
}

impl Text for GcReport {
    fn text(&self, _is_verbose: bool) -> String {
        let verb = if self.dry_run {
            "would be removed"
        } else {
            "removed"
        };
        format!(
            "{} of {} objects {verb}, {} freed",
            grouped(self.objects_removed),
            grouped(self.objects),
            bytes(self.bytes_freed)
        )
    }

    fn errors(&self) -> Vec<&FileError> {
        self.errors.iter().collect()
    }
}

impl Text for VerifyReport {
    fn text(&self, is_verbose: bool) -> String {
        let mut text = format!("{} objects verified", grouped(self.objects));
        if self.bytes_read > 0 {
            let _ = write!(text, ", {} read", bytes(self.bytes_read));
        }
        if self.index_rows_rebuilt > 0 || is_verbose {
            let rows = grouped(self.index_rows_rebuilt);
            let _ = write!(text, "\n{rows} index rows made anew");
        }
        if self.objects_repaired > 0 {
            let _ = write!(
                text,
                "\n{} objects repaired",
                grouped(self.objects_repaired)
            );
        }
        text
    }

    fn errors(&self) -> Vec<&FileError> {
        self.errors.iter().collect()
    }
}

impl Text for DeunifyReport {
    fn text(&self, _is_verbose: bool) -> String {
        let (have, copied) = if self.dry_run {
            ("would get", "to be copied")
        } else {
            ("have", "copied")
        };
        format!(
            "{} files {have} their own copies, {} {copied}",
            grouped(self.files_deunified),
            bytes(self.bytes_copied)
        )
    }

    fn errors(&self) -> Vec<&FileError> {
        self.errors.iter().collect()
    }
}

impl Text for Vec<StoreReport> {
    fn text(&self, _is_verbose: bool) -> String {
        self.iter().map(store_text).collect::<Vec<_>>().join("\n\n")
    }

    fn errors(&self) -> Vec<&FileError> {
        self.iter().flat_map(|report| &report.errors).collect()
    }
}

fn store_text(report: &StoreReport) -> String {
    let store = &report.store;
    let mut lines = vec![
        format!("store {}", store.path),
        format!(
            "{} objects, {}; saves {}",
            grouped(store.objects),
            bytes(store.bytes),
            bytes(store.saved_bytes)
        ),
    ];
    if store.unlinked_objects > 0 {
        lines.push(format!(
            "{} objects that none of these guests uses",
            grouped(store.unlinked_objects)
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<28} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "guest", "files", "alone", "shared", "private", "share"
    ));
    for guest in &report.guests {
        lines.push(format!(
            "{:<28} {:>9} {:>9} {:>9} {:>9} {:>9}",
            shortened(&guest.name, 28),
            grouped(guest.files),
            bytes(guest.bytes),
            bytes(guest.shared_bytes),
            bytes(guest.private_bytes),
            bytes(guest.fair_share_bytes)
        ));
    }
    lines.push(String::new());
    lines.push("alone: without sharing; share: private + its part of what is shared".to_owned());
    lines.extend(page_cache_lines(report));
    lines.extend(unshared_lines(report));
    lines.extend(old_copy_lines(report));
    lines.join("\n")
}

fn page_cache_lines(report: &StoreReport) -> Vec<String> {
    let Some(cache) = report.store.page_cache else {
        let why = report.page_cache_unknown.as_deref().unwrap_or_default();
        return vec![
            String::new(),
            format!("page cache: unknown, this kernel does not tell ({why})"),
        ];
    };
    vec![
        String::new(),
        format!(
            "page cache: {} now, {} of it shared; saves {}",
            bytes(cache.bytes),
            bytes(cache.shared_bytes),
            bytes(cache.saved_bytes)
        ),
        format!(
            "all files read: {} instead of {}",
            bytes(cache.full_bytes),
            bytes(cache.full_unshared_bytes)
        ),
    ]
}

fn unshared_lines(report: &StoreReport) -> Vec<String> {
    let mut lines: Vec<String> = report
        .unshared
        .occurred()
        .map(|(why, count)| {
            format!(
                "{:>12} files, {:>8}: {}",
                grouped(count.files),
                bytes(count.bytes),
                why.name()
            )
        })
        .collect();
    if !lines.is_empty() {
        lines.insert(0, "alike by their metadata and not shared:".to_owned());
        lines.insert(0, String::new());
    }
    lines
}

fn old_copy_lines(report: &StoreReport) -> Vec<String> {
    let old = &report.old_copies;
    if old.processes.is_empty() {
        return Vec::new();
    }
    let memory = old.page_cache_bytes.map_or_else(
        || "memory".to_owned(),
        |count| format!("{} of memory", bytes(count)),
    );
    let mut lines = vec![
        String::new(),
        format!(
            "a restart of these would free {memory} and {} of disk:",
            bytes(old.bytes)
        ),
    ];
    lines.extend(old.processes.iter().map(|process| {
        format!(
            "{:>9} {:<16} {:<28} {:>6} old files",
            process.process,
            shortened(&process.command, 16),
            shortened(&process.guest, 28),
            grouped(process.files.len() as u64)
        )
    }));
    lines
}

/// The end of a long name, which tells more than its beginning when it is a path.
fn shortened(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if count <= width {
        return name.to_owned();
    }
    let end: String = name.chars().skip(count - (width - 1)).collect();
    format!("…{end}")
}
