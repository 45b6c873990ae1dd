//! Read leases: proof that nobody writes to a file, and a hold on whoever wants to.
//!
//! `fcntl(F_SETLEASE, F_RDLCK)` is granted only while no descriptor is open for writing on the
//! inode and no shared writable mapping of it exists. While it is held, an `open` for writing and
//! a `truncate` wait (up to `/proc/sys/fs/lease-break-time` seconds, 45 by default), and the
//! holder can see that somebody waits. See `fcntl(2)`, "Leases", and `fs/locks.c`.
//!
//! Who opens for writing counts as a writer first and asks for the lease later (`do_dentry_open` in
//! `fs/open.c`), and can be held in between for as long as the scheduler likes. While the lease is
//! held such a process is not seen by it; [`LeasedFile::has_no_writer`] sees it.
//!
//! What a lease does *not* do: stop `chmod`, `chown`, `utimes` and extended attributes. Whoever
//! relies on metadata looks at it again afterwards.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::fault::{self, Point};
use super::last_error;

/// An open file on which this process holds a read lease. Dropping it gives the lease back.
///
/// It is also the capability to read a file's content: what asks for a `&LeasedFile` reads bytes
/// that cannot change underneath it.
#[derive(Debug)]
pub struct LeasedFile(OwnedFd);

/// A file on which no lease was granted.
#[derive(Debug)]
pub struct NoLease {
    /// The file.
    pub file: OwnedFd,
    /// `EAGAIN` (it is open for writing elsewhere, or mapped shared and writable); others as in
    /// `fcntl(2)`: `EINVAL` where the filesystem has no leases, and for what is no regular file;
    /// `EACCES` without `CAP_LEASE` on another user's file.
    pub errno: Errno,
}

impl LeasedFile {
    /// Takes a read lease on `file`, which must be open for reading only.
    ///
    /// # Errors
    /// [`NoLease`], with the file as it was given.
    pub fn acquire(file: OwnedFd) -> Result<Self, NoLease> {
        if fault::is_omitted(Point::Lease) {
            return Ok(Self(file));
        }
        match fault::at(Point::Lease, || take(&file)) {
            Ok(()) => Ok(Self(file)),
            Err(errno) => Err(NoLease { file, errno }),
        }
    }

    /// Whether nobody waits for this file: false once an `open` for writing or a `truncate` has
    /// asked for it, and for good.
    #[must_use]
    pub fn is_unbroken(&self) -> bool {
        if fault::is_omitted(Point::Lease) {
            return true;
        }
        // SAFETY: F_GETLEASE takes no further argument and touches no memory of this process;
        // the descriptor is owned by `self` and open.
        let held = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) };
        // While a break is under way the kernel answers with the type that is being broken to.
        held == libc::F_RDLCK
    }

    /// Whether nobody writes to this file, or has come so far that it will once the lease is given back:
    /// for the last look before that. Whoever begins to open the file after it is not seen.
    ///
    /// It takes the lease once more, which the kernel grants to its holder as it granted it first: only
    /// while nobody counts as a writer (`generic_add_lease` in `fs/locks.c`).
    #[must_use]
    pub fn has_no_writer(&self) -> bool {
        fault::is_omitted(Point::Lease) || take(&self.0).is_ok() && self.is_unbroken()
    }

    /// Gives the lease back and keeps the file open: whoever waits for it goes on.
    #[must_use]
    pub fn give_back(self) -> OwnedFd {
        // SAFETY: F_SETLEASE takes an integer and touches no memory of this process; the
        // descriptor is owned by `self` and open.
        let given_back =
            unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        // EAGAIN where the kernel has taken it back already.
        if given_back != 0 {
            tracing::trace!("the lease had ended before it was given back");
        }
        self.0
    }
}

impl AsFd for LeasedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn take(file: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: F_SETLEASE takes an integer and touches no memory of this process; `file` is open for
    // the whole call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// Makes the signal that announces a lease break harmless.
///
/// The kernel sends `SIGIO`, whose default action ends the process. Holders here ask
/// [`LeasedFile::is_unbroken`] at the moments that matter, so the signal itself is not needed.
pub fn ignore_break_signal() {
    // SAFETY: SIG_IGN is a valid disposition for SIGIO, and installing it runs no handler.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}
