//! Why a package database could not be read.

use std::io;
use std::path::PathBuf;

use vhashify_sys::call_error::{advice, reason};
use vhashify_sys::shown::Shown;

/// Why a package database could not be read. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
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
    /// It does not follow its format.
    #[error(
        "package database {}: {reason}; repair it in the guest, or unify the guest without \
         package information",
        Shown::path(path)
    )]
    Database {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `SQLite` has refused an rpm database.
    #[error(
        "package database {}: {source}; repair it in the guest (rpm --rebuilddb), or unify the \
         guest without package information",
        Shown::path(path)
    )]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// `SQLite`'s error.
        source: rusqlite::Error,
    },
}
