//! Why a package database could not be read.

use std::path::PathBuf;

use vhashify_sys::shown::Shown;

use crate::ReadError;

/// Why a package database could not be read. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// One of its files could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
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
