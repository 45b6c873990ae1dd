//! Why a file could not be read that says what is left out of unification.

use std::io;
use std::path::{Path, PathBuf};

use vhashify_sys::call_error::{advice, reason};
use vhashify_sys::shown::Shown;

/// Why a pattern file of the host, or a file of a package database, could not be read. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
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
        /// Its file or directory.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// It is a device, a FIFO or a directory.
    #[error(
        "{} is not a regular file; replace it by one or remove it",
        Shown::path(path)
    )]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// A file or directory is larger than any real one of its kind.
    #[error(
        "{} is larger than the limit of {limit} {unit}; it is not read",
        Shown::path(path)
    )]
    TooLarge {
        /// The file or directory.
        path: PathBuf,
        /// The limit.
        limit: u64,
        /// What the limit counts.
        unit: &'static str,
    },
}

impl ReadError {
    /// `call` failed on `path`: for `map_err`.
    pub fn of_call<E: Into<io::Error>>(call: &'static str, path: &Path) -> impl Fn(E) -> Self {
        move |source| Self::Io {
            call,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}
