//! Results as text for people: short, aligned, within 80 columns.

#[cfg(feature = "guard")]
mod guard;
mod report;

use std::fmt::Write as _;

use crate::outcome::numbers::{bytes, grouped};
use crate::outcome::{FileError, RunReport};
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
