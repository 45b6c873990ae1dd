//! Files without a name (`O_TMPFILE`), which the kernel removes when they are closed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

use super::procfs::descriptor_path;

/// Makes one on the filesystem of `directory`, open for reading and writing, with mode 0600.
///
/// # Errors
/// What `open(2)` lists; `EOPNOTSUPP` where the filesystem has no such files.
pub fn create(directory: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(directory, c".", flags, Mode::RUSR | Mode::WUSR)
}

/// Opens an open file again, for reading or for writing; it need not have a name.
///
/// # Errors
/// What `open(2)` lists.
pub fn open_again(file: impl AsFd, access: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(
        descriptor_path(&file),
        access | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
