//! Results as text for people: short, aligned, within 80 columns.

use std::fmt::Write as _;

use super::{bytes, grouped};
use crate::report::{FileError, RunReport, StoreReport};
use crate::store::{GcReport, VerifyReport};
use crate::unify::DeunifyReport;

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
                grouped(self.files_scanned),
                bytes(self.bytes_scanned),
                self.seconds.total
            ),
            format!(
                "{} files {verb}, {} saved, {} new objects; protection: {}",
                grouped(self.files_unified),
                bytes(self.bytes_saved),
                grouped(self.objects_created),
                self.protection.join(", ")
            ),
        ];
        let skipped: u64 = self.skipped.occurred().map(|(_, count)| count).sum();
        if is_verbose {
            lines.push(format!(
                "{} files read, {}",
                grouped(self.files_hashed),
                bytes(self.bytes_hashed)
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
        format!(
            "{} files have their own copies, {} copied",
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
    lines.join("\n")
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
