//! A system call that failed: the kernel's reason, and advice for the user.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use crate::shown::Shown;

/// A system call that failed on a path. [`source`](std::error::Error::source) is the kernel's error.
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
    /// The path.
    path: PathBuf,
    /// Why.
    #[source]
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

/// The C library's words for an error, without the number that Rust adds.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// What the user can do about an error, beginning with `; `; empty where that is not known.
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

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::io;
    use std::path::Path;

    use rustix::io::Errno;

    use super::{CallError, FailedCall};

    #[test]
    fn an_error_says_what_failed_why_and_what_to_do() {
        let error = CallError::new("openat2", Path::new("/a\nb"), Errno::NOSPC);
        assert_eq!(
            error.to_string(),
            "openat2 on /a\\nb failed: no space left on device; free some space there and run it again"
        );
        let source = error
            .source()
            .and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(libc::ENOSPC));
        let other = CallError::new("read", Path::new("x"), io::Error::other("Out of Order"));
        assert_eq!(other.to_string(), "read on x failed: Out of Order");
        assert_eq!(
            FailedCall::of("linkat")(Errno::MLINK).to_string(),
            "linkat: too many links"
        );
    }
}
