//! The account of one run.

use serde::Serialize;

use super::{Counts, FileError, Skipped};

/// What a run did, or with `--dry-run` would do. Serialized as it is for `--format json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunReport {
    /// When it began, in seconds since 1970.
    pub began: i64,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The guests, by name.
    pub guests: Vec<String>,
    /// How what they share is protected (`--protect`, with `auto` resolved), each mode once.
    pub protection: Vec<&'static str>,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
    /// Files that were left as they are, by reason.
    pub skipped: Skipped,
    /// Bytes of content of those among them that were opened, or were to be, by reason.
    pub skipped_bytes: Skipped,
    /// Files that could not be handled.
    pub errors: Vec<FileError>,
    /// How long each stage took.
    pub seconds: Seconds,
}

/// Seconds by stage.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Seconds {
    /// Reading the store and the index.
    pub load: f64,
    /// Walking the guests.
    pub scan: f64,
    /// Sorting into groups that may be alike.
    pub group: f64,
    /// Reading, planning and linking.
    pub unify: f64,
    /// Writing the index.
    pub index: f64,
    /// From beginning to end.
    pub total: f64,
}

impl RunReport {
    /// Adds what was done on another store.
    pub fn merge(&mut self, other: Self) {
        self.began = match self.began {
            0 => other.began,
            began => began.min(other.began),
        };
        self.dry_run |= other.dry_run;
        self.guests.extend(other.guests);
        for mode in other.protection {
            if !self.protection.contains(&mode) {
                self.protection.push(mode);
            }
        }
        self.counts.merge(&other.counts);
        self.skipped.merge(&other.skipped);
        self.skipped_bytes.merge(&other.skipped_bytes);
        self.errors.extend(other.errors);
        self.seconds.load += other.seconds.load;
        self.seconds.scan += other.seconds.scan;
        self.seconds.group += other.seconds.group;
        self.seconds.unify += other.seconds.unify;
        self.seconds.index += other.seconds.index;
        self.seconds.total += other.seconds.total;
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, RunReport};

    #[test]
    fn a_report_is_serialised_as_scripts_and_older_versions_read_it() {
        let mut report = RunReport {
            began: 1,
            guests: vec!["web".to_owned()],
            protection: vec!["lsm"],
            counts: Counts {
                files_scanned: 2,
                bytes_scanned: 3,
                files_hashed: 4,
                bytes_hashed: 5,
                files_unified: 6,
                bytes_saved: 7,
                disk_bytes_saved: 8,
                objects_created: 9,
            },
            ..RunReport::default()
        };
        report.seconds.total = 0.5;
        let text = concat!(
            r#"{"began":1,"dry_run":false,"guests":["web"],"protection":["lsm"],"files_scanned":2,"#,
            r#""bytes_scanned":3,"files_hashed":4,"bytes_hashed":5,"files_unified":6,"bytes_saved":7,"#,
            r#""disk_bytes_saved":8,"objects_created":9,"skipped":{},"skipped_bytes":{},"errors":[],"#,
            r#""seconds":{"load":0.0,"scan":0.0,"group":0.0,"unify":0.0,"index":0.0,"total":0.5}}"#,
        );
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
    }
}
