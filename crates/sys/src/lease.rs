//! Read leases: proof that no process writes to a file, and a hold on each that wants to.
//!
//! `fcntl(F_SETLEASE, F_RDLCK)` is granted only while no descriptor is open for writing on the
//! inode and no shared writable mapping of it exists. While it is held, an `open` for writing and
//! a `truncate` wait (up to `/proc/sys/fs/lease-break-time` seconds, 45 by default), and the
//! holder can see that somebody waits. See `fcntl(2)`, "Leases", and `fs/locks.c`.
//!
//! A process that opens the file for writing counts as a writer first and breaks the lease later (`do_dentry_open` in
//! `fs/open.c`); the scheduler may hold it in between for any time. The lease does not show such a process;
//! [`LeasedFile::has_no_writer`] does.
//!
//! What a lease does *not* do: stop `chmod`, `chown`, `utimes` and extended attributes. Callers that rely on metadata
//! read them again afterwards.

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
        match fault::at(Point::Lease, || take(file.as_fd())) {
            Ok(()) => Ok(Self(file)),
            Err(errno) => Err(NoLease { file, errno }),
        }
    }

    /// Whether no process waits for this file: false for good once an `open` for writing or a `truncate` has begun to
    /// break the lease.
    #[must_use]
    pub fn is_unbroken(&self) -> bool {
        if fault::is_omitted(Point::Lease) {
            return true;
        }
        // SAFETY: F_GETLEASE makes `fcntl` take no third argument and no pointer; `self` keeps the descriptor open.
        let held = unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_GETLEASE) };
        // During a break the kernel returns the type that the lease is broken to.
        held == libc::F_RDLCK
    }

    /// Whether no process writes to this file or will once the lease is given back, because it counts as a writer
    /// already: the last check before that. A process that begins to open the file after it is not seen.
    ///
    /// It takes the lease again, which the kernel grants its holder under the rule of the first time: only while no
    /// process counts as a writer (`generic_add_lease` in `fs/locks.c`). It asks before that whether the lease is still
    /// held: one that the kernel has ended, after `lease-break-time`, would be granted anew and look unbroken, although
    /// a writer came and went.
    #[must_use]
    pub fn has_no_writer(&self) -> bool {
        fault::is_omitted(Point::Lease)
            || self.is_unbroken() && take(self.0.as_fd()).is_ok() && self.is_unbroken()
    }

    /// Gives the lease back and keeps the file open. Processes that wait for it go on.
    #[must_use]
    pub fn give_back(self) -> OwnedFd {
        // SAFETY: F_SETLEASE makes `fcntl` take an integer and no pointer; `self` keeps the descriptor open.
        let given_back =
            unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        // EAGAIN where the kernel has ended the lease, after lease-break-time.
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

/// Takes a read lease that nobody holds: it goes when the descriptor is closed. [`LeasedFile`] is for all but a try.
///
/// # Errors
/// What `fcntl(2)` lists.
pub fn take(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: F_SETLEASE makes `fcntl` take an integer and no pointer; `file` keeps the descriptor open.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } {
        0 => Ok(()),
        _ => Err(last_error()),
    }
}

/// Ignores `SIGIO`, which the kernel sends to the holder of a lease that is broken, and which would end the process.
///
/// Holders ask [`LeasedFile::is_unbroken`] at the moments that matter, and need no signal.
pub fn ignore_break_signal() {
    // SAFETY: `signal` asks for a handler that is async-signal-safe: SIG_IGN is none.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::fd::OwnedFd;

    use super::LeasedFile;

    /// Ended by a duplicate of its descriptor, as the kernel ends it after `lease-break-time`.
    #[test]
    fn a_lease_that_has_ended_is_not_taken_for_an_unbroken_one() {
        let path = std::env::temp_dir().join(format!("vhashify-lease-{}", std::process::id()));
        std::fs::write(&path, b"content").unwrap();
        let file = OwnedFd::from(File::open(&path).unwrap());
        let twin = file.try_clone().unwrap();
        let leased = LeasedFile::acquire(file).unwrap();
        assert!(leased.has_no_writer() && leased.has_no_writer());
        drop(LeasedFile(twin).give_back());
        // A writer comes and goes.
        drop(OpenOptions::new().write(true).open(&path).unwrap());
        assert!(!leased.has_no_writer());
        assert!(!leased.has_no_writer(), "asked twice");
        std::fs::remove_file(path).unwrap();
    }
}
