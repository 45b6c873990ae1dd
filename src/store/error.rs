//! Why a store cannot be used.

use std::path::PathBuf;

use thiserror::Error;
use vhashify_sys::call_error::CallError;
use vhashify_sys::shown::Shown;

/// Why a store cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call failed on one of its directories.
    #[error(transparent)]
    System(#[from] CallError),
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

impl StoreError {
    /// Whether the command was refused, rather than wrongly put.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}
