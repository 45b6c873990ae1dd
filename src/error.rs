//! What can stop a whole command, as opposed to one file of it (see [`crate::report::FileError`]).

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::ConfigError;
use crate::display::Shown;
use crate::exclude::ExcludeError;
use crate::guest::GuestError;

/// An error of a command. Its text is one line that names the path and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed on a path of the host.
    #[error(transparent)]
    System(#[from] SystemError),
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
        "the index {} cannot be used: {reason}; make it writable, or choose another directory with --state-dir",
        Shown::path(path)
    )]
    Index {
        /// Its file.
        path: PathBuf,
        /// Why.
        reason: String,
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
        SystemError::new(call, path, source).into()
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

/// A system call that failed, told in full.
#[derive(Debug, Error)]
#[error(
    "{call} on {} failed: {}{}",
    Shown::path(path),
    reason(source),
    advice(source)
)]
pub struct SystemError {
    /// The call, or what was to be done.
    call: &'static str,
    /// On what.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

impl SystemError {
    /// `call` on `path` failed.
    #[must_use]
    pub fn new(call: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            call,
            path: path.to_path_buf(),
            source: source.into(),
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

/// The system's words for an error, without the number that Rust adds.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// What the user can do about it, beginning with `; `, where that is known.
#[must_use]
pub fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "; free some space there and run it again",
        Some(libc::EROFS) => "; mount the filesystem for writing",
        Some(libc::EACCES | libc::EPERM) => "; run it as root",
        Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files (ulimit -n)",
        Some(libc::EIO) => "; look at the kernel's log (dmesg), the disk may be failing",
        Some(libc::EUCLEAN) => "; unmount the filesystem and check it (fsck)",
        Some(libc::ENOENT) => "; make it, or correct the path",
        Some(libc::ENOTDIR) => "; name a directory",
        Some(libc::EISDIR) => "; name a file",
        _ => "",
    }
}
