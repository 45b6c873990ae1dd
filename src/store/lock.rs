//! One run at a time: an exclusive `flock(2)` on the store's directory.
//!
//! The lock is on the directory itself, because a lock file would be something in the store that
//! is not an object. It belongs to the store and not to the state directory, so that two
//! administrators with two state directories still meet.

use std::os::fd::OwnedFd;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::Store;
use crate::error::Error;
use crate::sys::beneath;

/// The right to change a store; given back when dropped, and by the kernel when the process ends.
#[derive(Debug)]
pub struct StoreLock {
    _directory: OwnedFd,
}

/// What to do while another run holds the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Wait until it is done.
    Forever,
    /// Give up at once (`--no-wait`).
    Never,
}

impl StoreLock {
    /// Locks `store`; calls `waiting` once if that takes more than a moment.
    ///
    /// # Errors
    /// [`Error::StoreBusy`] with [`Wait::Never`]; a failed system call.
    pub fn acquire(store: &Store, wait: Wait, waiting: impl FnOnce()) -> Result<Self, Error> {
        let failed = |call, error: Errno| Error::call(call, store.path(), error.into());
        // A description of its own: a lock taken through a duplicate would be shared with it.
        let directory =
            beneath::open_host_directory(store.path()).map_err(|error| failed("open", error))?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                return Ok(Self {
                    _directory: directory,
                });
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed("flock", error)),
        }
        if wait == Wait::Never {
            return Err(Error::StoreBusy {
                store: store.path().to_path_buf(),
            });
        }
        waiting();
        loop {
            match rustix::fs::flock(&directory, FlockOperation::LockExclusive) {
                Ok(()) => {
                    return Ok(Self {
                        _directory: directory,
                    });
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("flock", error)),
            }
        }
    }
}
