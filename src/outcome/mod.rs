//! What a command has done, and what it says of it on the way. It stands on `vhashify-sys` alone, below all other rooms.
//!
//! | file | what it is about |
//! | --- | --- |
//! | [`RunReport`] | the account of one run |
//! | [`Counts`] | its counters, which every worker has, too |
//! | [`Skip`] | why files were left as they are |
//! | [`numbers`] | numbers as people read them |

mod counts;
pub mod numbers;
mod run_report;
mod skip;

use std::io;
use std::path::PathBuf;

use serde::{Serialize, Serializer};
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::shown::Shown;

pub use counts::Counts;
pub use run_report::{RunReport, Seconds};
pub use skip::{Skip, Skipped};

/// One file or directory that could not be handled. The run went on without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileError {
    /// Which one.
    #[serde(serialize_with = "shown")]
    pub path: PathBuf,
    /// Why, and what to do where that is known.
    pub reason: String,
}

impl FileError {
    /// A failed system call on one file.
    #[must_use]
    pub fn call(call: &'static str, path: PathBuf, error: &io::Error) -> Self {
        let reason = format!(
            "{call}: {}{}",
            vhashify_sys::call_error::reason(error),
            vhashify_sys::call_error::advice(error)
        );
        Self { path, reason }
    }

    /// The same of a call that was named where it failed.
    #[must_use]
    pub fn failed(FailedCall { call, errno }: FailedCall, path: PathBuf) -> Self {
        Self::call(call, path, &errno.into())
    }
}

/// Serializes a path as [`Shown`] shows it, which keeps any bytes apart from any others.
pub(crate) fn shown<S: Serializer>(path: &PathBuf, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Shown::path(path))
}

/// Serializes paths as [`shown`] does.
pub(crate) fn shown_all<S: Serializer>(
    paths: &[PathBuf],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| Shown::path(path).to_string()))
}

/// Hears how far a command has come. Called from several threads at once.
pub trait Progress: Sync {
    /// A stage begins; `total` is how far it will go, where that is known.
    fn stage(&self, name: &'static str, total: Option<u64>);
    /// The stage came further by so much.
    fn advance(&self, by: u64);
    /// Something that the user should know now, as one line.
    fn note(&self, line: &str);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _name: &'static str, _total: Option<u64>) {}
    fn advance(&self, _by: u64) {}
    fn note(&self, _line: &str) {}
}
