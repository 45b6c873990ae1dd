//! Files without a name (`O_TMPFILE`), which are gone when they are closed.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

/// Makes one on the filesystem of `directory`, open for reading and writing, its owner's alone.
///
/// # Errors
/// What `open(2)` lists; `EOPNOTSUPP` where the filesystem has no such files.
pub fn create(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(directory, c".", flags, Mode::RUSR | Mode::WUSR)
}

/// Opens an open file once more, for reading or for writing: it may have no name by which that could be
/// done.
///
/// # Errors
/// What `open(2)` lists.
pub fn open_again(file: impl AsFd, access: OFlags) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty())
}
