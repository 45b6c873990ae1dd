//! What can go wrong while exclusions are gathered.

use std::path::PathBuf;

use vhashify_packages::pattern::BadPattern;
use vhashify_packages::{PackageError, ReadError};
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
    /// A pattern file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The databases of the guest's package managers.
    #[error(transparent)]
    Packages(#[from] PackageError),
}
