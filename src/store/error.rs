//! Why a store cannot be used.

use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::{CallError, FailedCall};
use vhashify_sys::shown::Shown;

/// Why a store cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call failed on one of its directories.
    #[error(transparent)]
    System(#[from] CallError),
    /// There is no work directory beside it.
    #[error(
        "the work directory beside the store {} cannot be used: {failed}{}",
        Shown::path(store),
        advice(failed.errno)
    )]
    WorkDirectory {
        /// The store.
        store: PathBuf,
        /// The call.
        failed: FailedCall,
    },
    /// Guests count on the guard for what they share in it, and it does not hold.
    #[error(
        "the store {} has files that were shared under the guard, which does not hold now, so that what one guest writes to \
         them changes the others'; load it (vhashify guard load), give the guests files of their own (vhashify deunify), \
         or say --protect none to go on all the same",
        Shown::path(store)
    )]
    Unguarded {
        /// The store.
        store: PathBuf,
    },
    /// Another run holds it, and `--no-wait` was given.
    #[error(
        "the store {} is in use by another run; try again later, or leave out --no-wait to wait for it",
        Shown::path(store)
    )]
    Busy {
        /// The store.
        store: PathBuf,
    },
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::XDEV => {
            "; the store is the root of its mount: name one in a directory of the guests' mount"
        }
        Errno::PERM => "; it must be root's and nobody else's: remove .vhashify-work-* there",
        _ => vhashify_sys::call_error::advice(&errno.into()),
    }
}

impl StoreError {
    /// Whether the command was refused, rather than wrongly put.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unguarded { .. })
    }
}
