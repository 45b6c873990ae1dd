//! Why an index cannot be kept or used, and whether making it anew would help.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::{CallError, reason};
use vhashify_sys::shown::Shown;

/// Why no index can be kept.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A system call failed.
    #[error(transparent)]
    System(#[from] CallError),
    /// Its file cannot be read or written.
    #[error(
        "the index {} cannot be used: {source}; make it writable, or choose another directory with --state-dir",
        Shown::path(path)
    )]
    Unusable {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: IndexFault,
    },
    /// The directory of the indexes cannot be made.
    #[error(
        "the state directory {} cannot be made: {}; correct that, or choose another one with --state-dir",
        Shown::path(path),
        reason(source)
    )]
    StateDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why the file of an index could not be used: a clause. The caller begins a new one, or goes on without.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// redb, or the system below it.
    #[error("{}", words(.0))]
    Redb(#[from] redb::Error),
    /// It is the index of another store.
    #[error("it belongs to another store")]
    OtherStore,
    /// Another version of vhashify made it.
    #[error("its format {0} is not that of this version")]
    OtherFormat(u32),
    /// Its content contradicts itself, or made redb panic.
    #[error("it is damaged")]
    Damaged,
}

impl IndexFault {
    /// Whether the fault lies with the place and not with the content: making it anew would not help.
    pub(super) fn is_environment(&self) -> bool {
        match self {
            Self::Redb(redb::Error::Io(error)) => matches!(
                error.kind(),
                ErrorKind::PermissionDenied
                    | ErrorKind::ReadOnlyFilesystem
                    | ErrorKind::StorageFull
                    | ErrorKind::IsADirectory
            ),
            Self::Redb(redb::Error::DatabaseAlreadyOpen) => true,
            _ => false,
        }
    }

    /// Whether the fault lies with the content, so that making it anew helps.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            // A damaged page can point behind the end of the file, or nowhere.
            Self::Redb(redb::Error::Io(error)) => matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput
            ),
            _ => !self.is_environment(),
        }
    }
}

/// redb has an error type for each kind of call, and one that holds them all.
macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for IndexFault {
            fn from(error: redb::$error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}

from_redb!(
    CommitError,
    DatabaseError,
    StorageError,
    TableError,
    TransactionError
);

impl From<Errno> for IndexFault {
    fn from(errno: Errno) -> Self {
        Self::Redb(redb::Error::Io(errno.into()))
    }
}

/// redb's words, or the system's where a system call failed.
fn words(error: &redb::Error) -> String {
    match error {
        redb::Error::Io(error) => reason(error),
        other => other.to_string(),
    }
}
