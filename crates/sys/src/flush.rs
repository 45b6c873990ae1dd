//! Waits until a file's bytes are on the disk, without a commit of the filesystem's journal.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

/// Writes the dirty pages of a file and waits for them (`sync_file_range(2)`).
///
/// Afterwards its blocks and its size are in the filesystem's running transaction. A name that it gets from now on is
/// in the same transaction or a later one, and so never on the disk without them: a journal commits in order, and
/// flushes the disk's cache before each commit. `fdatasync(2)` would wait for a commit, too.
///
/// # Errors
/// `EIO` and `ENOSPC` of the writing. Where a filesystem lacks the call, `fdatasync(2)` takes its place.
pub fn settle(file: impl AsFd) -> Result<()> {
    let file = file.as_fd();
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: `sync_file_range` takes integers and no pointer; the descriptor is borrowed for the whole call.
    let done = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if done == 0 {
        return Ok(());
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        Some(Errno::NOSYS | Errno::INVAL | Errno::SPIPE) | None => rustix::fs::fdatasync(file),
        Some(errno) => Err(errno),
    }
}
