//! What can go wrong while exclusions are gathered.

use std::io;
use std::path::PathBuf;

use vhashify_packages::PackageError;
use vhashify_packages::pattern::BadPattern;
use vhashify_sys::call_error::{advice, reason};
use vhashify_sys::shown::Shown;

/// Why a pattern file or a package database could not be used. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum ExcludeError {
    /// A line of a pattern file.
    #[error(
        "{}:{line}: {reason}; correct the line or begin it with '#'",
        Shown::path(path)
    )]
    BadLine {
        /// The pattern file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: BadPattern,
    },
    /// A system call failed.
    #[error(
        "{call} failed on {}: {}{}",
        Shown::path(path),
        reason(source),
        advice(source)
    )]
    Io {
        /// The call.
        call: &'static str,
        /// The file or directory it was given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file is larger than anything that its kind has a reason to be.
    #[error(
        "{} is larger than the limit of {limit} {unit}; it is not read",
        Shown::path(path)
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
        /// What the limit counts.
        unit: &'static str,
    },
    /// The databases of the guest's package managers.
    #[error(transparent)]
    Packages(#[from] PackageError),
}
