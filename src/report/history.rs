//! Reads from the index how earlier runs went.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::outcome::Counts;

/// An earlier run, read from its own report. A field that a later version added is 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PastRun {
    /// Its number; later runs have larger ones.
    pub number: u64,
    /// When it began, in seconds since 1970; 0 if its report does not say.
    pub began: i64,
    /// How long it took.
    pub seconds: f64,
    /// How many guests it had.
    pub guests: u64,
    /// Its counters.
    #[serde(flatten, serialize_with = "counts_of_history")]
    pub counts: Counts,
    /// Files that it left as they were, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Bytes of content of those that it opened or was about to, by reason.
    pub skipped_bytes: BTreeMap<String, u64>,
    /// Files that failed.
    pub errors: u64,
}

/// The fields of a run's own report that the history uses.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Row {
    began: i64,
    guests: Vec<String>,
    #[serde(flatten)]
    counts: Counts,
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

/// Serialises the counters of the history: fewer than a run's own report has.
fn counts_of_history<S: Serializer>(counts: &Counts, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map([
        ("files_scanned", counts.files_scanned),
        ("bytes_scanned", counts.bytes_scanned),
        ("files_hashed", counts.files_hashed),
        ("bytes_hashed", counts.bytes_hashed),
        ("files_unified", counts.files_unified),
        ("bytes_saved", counts.bytes_saved),
    ])
}

impl PastRun {
    /// Parses the report of run `number`; `None` if it is none.
    #[must_use]
    pub fn parse(number: u64, report: &str) -> Option<Self> {
        let row: Row = serde_json::from_str(report).ok()?;
        Some(Self {
            number,
            began: row.began,
            seconds: row.seconds.total,
            guests: row.guests.len() as u64,
            counts: row.counts,
            skipped: row.skipped,
            skipped_bytes: row.skipped_bytes,
            errors: row.errors.len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::PastRun;
    use crate::outcome::{Counts, RunReport, Skip};

    #[test]
    fn a_runs_report_is_read_again() {
        let mut report = RunReport {
            began: 1_700_000_000,
            guests: vec!["web".to_owned(), "mail".to_owned()],
            counts: Counts {
                files_unified: 7,
                disk_bytes_saved: 4096,
                ..Counts::default()
            },
            ..RunReport::default()
        };
        report.skipped.add(Skip::OpenForWriting, 2);
        report.skipped_bytes.add(Skip::OpenForWriting, 99);
        report.seconds.total = 1.5;
        let text = serde_json::to_string(&report).unwrap();
        let run = PastRun::parse(3, &text).unwrap();
        assert_eq!((run.number, run.began, run.guests), (3, 1_700_000_000, 2));
        assert_eq!((run.counts.files_unified, run.errors), (7, 0));
        assert_eq!(run.skipped["open-for-writing"], 2);
        assert_eq!(run.skipped_bytes["open-for-writing"], 99);
        let shown = concat!(
            r#"{"number":3,"began":1700000000,"seconds":1.5,"guests":2,"files_scanned":0,"bytes_scanned":0,"#,
            r#""files_hashed":0,"bytes_hashed":0,"files_unified":7,"bytes_saved":0,"#,
            r#""skipped":{"open-for-writing":2},"skipped_bytes":{"open-for-writing":99},"errors":0}"#,
        );
        assert_eq!(serde_json::to_string(&run).unwrap(), shown);
    }

    #[test]
    fn what_an_earlier_version_did_not_say_is_nothing() {
        let run = PastRun::parse(1, r#"{"files_scanned": 5, "news": true}"#).unwrap();
        assert_eq!((run.counts.files_scanned, run.began), (5, 0));
        assert_eq!(PastRun::parse(1, "damaged"), None);
    }
}
