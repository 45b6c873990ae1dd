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
        matches!(self, Self::Busy { .. })
    }
}
