//! `--protect none`: sets the mark of iunlink, which nothing enforces.

use std::os::fd::BorrowedFd;

use vhashify_sys::flags;

use super::{Protection, TurnsBack};

/// Only sets the mark. A guard that is loaded later enforces it.
#[derive(Debug, Clone, Copy)]
pub struct MarkOnly;

impl TurnsBack for MarkOnly {}

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
