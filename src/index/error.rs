//! Why an index could not be used, and whether another file would help.

use std::io::ErrorKind;

use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::reason;

/// Why an index could not be used: a clause. The caller begins a new one, or goes on without.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IndexError {
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

impl IndexError {
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
        $(impl From<redb::$error> for IndexError {
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

impl From<Errno> for IndexError {
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
