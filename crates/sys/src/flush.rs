//! Waits until a file's bytes are with the disk, without a commit of the filesystem's journal.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

/// Writes the dirty pages of a file and waits for them (`sync_file_range(2)`).
///
/// Afterwards the file has its blocks and its size in the filesystem's running transaction, so that a
/// name which is given to it from now on cannot be on the disk before them: a journal is committed in
/// order, and the disk's cache is flushed before each commit. It costs the writing of the bytes and
/// no commit, which `fdatasync(2)` would wait for.
///
/// # Errors
/// `EIO` and `ENOSPC` of the writing. Filesystems without it are synchronised by `fdatasync(2)`.
pub fn settle(file: impl AsFd) -> Result<()> {
    let file = file.as_fd();
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the call takes numbers only, and the descriptor is open for the whole call.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if done == 0 {
        return Ok(());
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        Some(Errno::NOSYS | Errno::INVAL | Errno::SPIPE) | None => rustix::fs::fdatasync(file),
        Some(errno) => Err(errno),
    }
}
