//! Who comes late for a file that was just replaced.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// Turns those back who still come for a displaced inode. Nobody does, unless there is a guard.
pub trait TurnsBack {
    /// Begins to turn them back. False where nothing can.
    ///
    /// # Errors
    /// The kernel's error; nobody is turned back then.
    fn turn_back(&self, _displaced: BorrowedFd<'_>) -> Result<bool, Errno> {
        Ok(false)
    }

    /// Lets them in again, before a name leads to it.
    ///
    /// # Errors
    /// The kernel's error.
    fn let_in(&self, _displaced: BorrowedFd<'_>) -> Result<(), Errno> {
        Ok(())
    }
}
