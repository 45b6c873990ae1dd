//! What can stop a whole command, as opposed to one file of it (see [`crate::outcome::FileError`]).

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vhashify_config::ConfigError;
use vhashify_sys::call_error::{CallError, reason};
use vhashify_sys::shown::Shown;

use crate::exclude::ExcludeError;
use crate::guest::GuestError;
use crate::index::IndexError;

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
    /// The index cannot be kept.
    #[error(
        "the index {} cannot be used: {source}; make it writable, or choose another directory with --state-dir",
        Shown::path(path)
    )]
    Index {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: IndexError,
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
    /// Another run holds the store, and `--no-wait` was given.
    #[error(
        "the store {} is in use by another run; try again later, or leave out --no-wait to wait for it",
        Shown::path(store)
    )]
    StoreBusy {
        /// The store.
        store: PathBuf,
    },
    /// What `--protect` asks for cannot be enforced on this host.
    #[error(
        "shared files of {} cannot be protected: {missing}; for guests that are at rest and trusted, --protect none marks files without enforcing it",
        Shown::path(store)
    )]
    NoProtection {
        /// The store.
        store: PathBuf,
        /// What is missing, mode by mode.
        missing: String,
    },
    /// The guard cannot be loaded, looked at or unloaded.
    #[cfg(feature = "guard")]
    #[error(transparent)]
    Guard(#[from] crate::protect::guard::GuardError),
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
    /// A failed system call on `path`.
    #[must_use]
    pub fn call(call: &'static str, path: &Path, source: io::Error) -> Self {
        CallError::new(call, path, source).into()
    }

    /// Whether the command was refused, rather than wrongly put: the store is busy, or nothing can
    /// be protected.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::StoreBusy { .. } | Self::NoProtection { .. } => true,
            #[cfg(feature = "guard")]
            Self::Guard(error) => error.is_refusal(),
            _ => false,
        }
    }
}

/// Adds the call and the path to an error of the system.
pub trait Call<T> {
    /// Turns the error into [`Error::System`].
    ///
    /// # Errors
    /// The same error, told in full.
    fn call(self, call: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Call<T> for Result<T, E> {
    fn call(self, call: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|error| Error::call(call, path, error.into()))
    }
}
