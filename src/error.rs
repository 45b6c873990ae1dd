//! What can stop a whole command, as opposed to one file of it (see [`crate::outcome::FileError`]).
//!
//! Each room below has an error type of its own; here they meet for those who use several rooms.

use std::path::PathBuf;

use thiserror::Error;
use vhashify_config::ConfigError;
use vhashify_sys::call_error::CallError;
use vhashify_sys::shown::Shown;

use crate::exclude::ExcludeError;
use crate::guest::GuestError;
use crate::index::IndexError;
use crate::protect::ProtectError;
#[cfg(feature = "guard")]
use crate::protect::guard::GuardError;
use crate::store::StoreError;

/// An error of a command. Its text is one line that names the path and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed on a path of the host.
    #[error(transparent)]
    System(#[from] CallError),
    /// The configuration tree.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// How guests and stores lie on the host.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// What is never unified.
    #[error(transparent)]
    Exclude(#[from] ExcludeError),
    /// A store cannot be used, or another run holds it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index cannot be kept.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What `--protect` asks for cannot be enforced on this host.
    #[error(transparent)]
    Protect(#[from] ProtectError),
    /// The guard cannot be loaded, looked at or unloaded.
    #[cfg(feature = "guard")]
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A path that was named on the command line is not in the guest, or is not what it should be.
    #[error("{} {reason}", Shown::path(path))]
    Argument {
        /// The path.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: &'static str,
    },
}

impl Error {
    /// Whether the command was refused, rather than wrongly put: the store is busy, or nothing can
    /// be protected.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Store(error) => error.is_refusal(),
            Self::Protect(_) => true,
            #[cfg(feature = "guard")]
            Self::Guard(error) => error.is_refusal(),
            _ => false,
        }
    }
}
