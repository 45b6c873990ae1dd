//! How earlier runs went, as the index remembers them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An earlier run. Read from what it printed itself, so that a field which a later version added is
/// 0 for a run of an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PastRun {
    /// Its number; later runs have larger ones.
    pub number: u64,
    /// When it began, in seconds since 1970; 0 where it did not say.
    pub began: i64,
    /// How long it took.
    pub seconds: f64,
    /// Count of its guests.
    pub guests: u64,
    /// Regular files that it looked at.
    pub files_scanned: u64,
    /// Bytes of content of these.
    pub bytes_scanned: u64,
    /// Files that it read.
    pub files_hashed: u64,
    /// Bytes of content of these.
    pub bytes_hashed: u64,
    /// Names that it replaced.
    pub files_unified: u64,
    /// Bytes of content that it saved.
    pub bytes_saved: u64,
    /// Files that it left as they were, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Bytes of content of those that it opened or was about to, by reason.
    pub skipped_bytes: BTreeMap<String, u64>,
    /// Files that it could not handle.
    pub errors: u64,
}

/// The part of a run's own report that is of use later.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Row {
    began: i64,
    guests: Vec<String>,
    files_scanned: u64,
    bytes_scanned: u64,
    files_hashed: u64,
    bytes_hashed: u64,
    files_unified: u64,
    bytes_saved: u64,
    skipped: BTreeMap<String, u64>,
    skipped_bytes: BTreeMap<String, u64>,
    errors: Vec<serde::de::IgnoredAny>,
    seconds: RowSeconds,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RowSeconds {
    total: f64,
}

impl PastRun {
    /// Reads the report of run `number`; `None` for what is none.
    #[must_use]
    pub fn parse(number: u64, report: &str) -> Option<Self> {
        let row: Row = serde_json::from_str(report).ok()?;
        Some(Self {
            number,
            began: row.began,
            seconds: row.seconds.total,
            guests: row.guests.len() as u64,
            files_scanned: row.files_scanned,
            bytes_scanned: row.bytes_scanned,
            files_hashed: row.files_hashed,
            bytes_hashed: row.bytes_hashed,
            files_unified: row.files_unified,
            bytes_saved: row.bytes_saved,
            skipped: row.skipped,
            skipped_bytes: row.skipped_bytes,
            errors: row.errors.len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::PastRun;
    use crate::outcome::{RunReport, Skip};

    #[test]
    fn a_runs_report_is_read_again() {
        let mut report = RunReport {
            began: 1_700_000_000,
            guests: vec!["web".to_owned(), "mail".to_owned()],
            files_unified: 7,
            ..RunReport::default()
        };
        report.skipped.add(Skip::OpenForWriting, 2);
        report.skipped_bytes.add(Skip::OpenForWriting, 99);
        report.seconds.total = 1.5;
        let text = serde_json::to_string(&report).unwrap();
        let run = PastRun::parse(3, &text).unwrap();
        assert_eq!((run.number, run.began, run.guests), (3, 1_700_000_000, 2));
        assert_eq!((run.files_unified, run.errors), (7, 0));
        assert_eq!(run.skipped["open-for-writing"], 2);
        assert_eq!(run.skipped_bytes["open-for-writing"], 99);
    }

    #[test]
    fn what_an_earlier_version_did_not_say_is_nothing() {
        let run = PastRun::parse(1, r#"{"files_scanned": 5, "news": true}"#).unwrap();
        assert_eq!((run.files_scanned, run.began), (5, 0));
        assert_eq!(PastRun::parse(1, "damaged"), None);
    }
}
