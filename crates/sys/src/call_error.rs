//! A system call that failed: in the system's words, and with what the user can do.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use crate::shown::Shown;

/// A system call that failed, told in full.
#[derive(Debug, Error)]
#[error(
    "{call} on {} failed: {}{}",
    Shown::path(path),
    reason(source),
    advice(source)
)]
pub struct CallError {
    /// The call, or what was to be done.
    call: &'static str,
    /// On what.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

impl CallError {
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
    /// Turns the error into a [`CallError`].
    ///
    /// # Errors
    /// The same error, told in full.
    fn call(self, call: &'static str, path: &Path) -> Result<T, CallError>;
}

impl<T, E: Into<io::Error>> Call<T> for Result<T, E> {
    fn call(self, call: &'static str, path: &Path) -> Result<T, CallError> {
        self.map_err(|error| CallError::new(call, path, error))
    }
}

/// A system call that failed, by name: what a function gives back that knows no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{call}: {}", reason(&io::Error::from(*errno)))]
pub struct FailedCall {
    /// The call, or what was to be done.
    pub call: &'static str,
    /// Why.
    pub errno: Errno,
}

impl FailedCall {
    /// Names the call: for `map_err`.
    pub fn of(call: &'static str) -> impl Fn(Errno) -> Self + Copy {
        move |errno| Self { call, errno }
    }
}

impl From<(&'static str, io::Error)> for FailedCall {
    /// An error that is no system call's counts as `EIO`.
    fn from((call, error): (&'static str, io::Error)) -> Self {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Self { call, errno }
    }
}

impl From<FailedCall> for io::Error {
    fn from(failed: FailedCall) -> Self {
        failed.errno.into()
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
