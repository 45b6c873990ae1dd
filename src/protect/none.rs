//! `--protect none`: sets the mark of iunlink, and nothing enforces it.

use std::os::fd::BorrowedFd;

use vhashify_sys::flags;

use super::Protection;

/// Sets the mark and nothing else, so that a guard that is loaded later finds it.
#[derive(Debug, Clone, Copy)]
pub struct MarkOnly;

impl Protection for MarkOnly {
    fn is_enforced(&self) -> bool {
        false
    }

    fn protect(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()> {
        flags::mark(object)
    }

    fn release(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()> {
        flags::unmark(object)
    }
}
