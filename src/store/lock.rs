//! One run at a time: an exclusive `flock(2)` on the store's directory.
//!
//! The lock is on the directory itself, because the store holds nothing but objects. It is the store's and not
//! the state directory's, so that two runs with two state directories exclude one another.
//!
//! A process that must not wait for a run (the broker) takes no lock and reads the directory's [`RunState`]: an
//! extended attribute that counts the runs that replace names in guests, and says whether one is under way.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FlockOperation, XattrFlags};
use rustix::io::Errno;
use vhashify_sys::call_error::{Call as _, CallError};
use vhashify_sys::resolve;

use super::{Store, StoreError};

/// The right to change a store. Dropping it gives it back, and so does the kernel when the process ends.
#[derive(Debug)]
pub struct StoreLock {
    directory: OwnedFd,
}

/// A run that replaces names in guests; dropping it announces its end.
#[derive(Debug)]
pub struct Announced<'a>(&'a StoreLock);

/// Whether a run replaces names in guests at the moment, as the store's attribute says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// No run replaces names now, and none has since the store last answered with this number.
    Over(u64),
    /// A run does, or was killed while it did; or the attribute cannot be read.
    UnderWay,
}

/// Eight bytes of a number that grows with each run, and one that is 1 while it is under way.
const ATTRIBUTE: &str = "trusted.vhashify.run";

impl RunState {
    /// Asks the store that is open as `directory`.
    #[must_use]
    pub fn of(directory: impl AsFd) -> Self {
        match read(directory) {
            Some((number, false)) => Self::Over(number),
            _ => Self::UnderWay,
        }
    }
}

/// Whether another process holds the lock of the store that is open as `directory` at this moment. For rare
/// use: it takes a shared lock for an instant, and a run with [`Wait::Never`] that begins then gives up.
#[must_use]
pub fn is_locked(directory: impl AsFd) -> bool {
    let Ok(own) = resolve::open_directory(directory.as_fd(), b"") else {
        return false;
    };
    rustix::fs::flock(&own, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

fn read(directory: impl AsFd) -> Option<(u64, bool)> {
    let mut value = [0; 9];
    match rustix::fs::fgetxattr(directory, ATTRIBUTE, &mut value) {
        Ok(9) => {
            let (number, state) = value.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*number), state != [0]))
        }
        _ => None,
    }
}

fn write(directory: &OwnedFd, number: u64, is_under_way: bool) {
    let mut value = number.to_le_bytes().to_vec();
    value.push(is_under_way.into());
    let written = rustix::fs::fsetxattr(directory, ATTRIBUTE, &value, XattrFlags::empty());
    if let Err(errno) = written {
        // The store is read-only (no run changes it), full, or on a filesystem without attributes. The value of
        // an older run must not stay: without a value, `RunState::of` never says that a run is over.
        tracing::debug!(%errno, "the store does not say that it is in use");
        let _ = rustix::fs::fremovexattr(directory, ATTRIBUTE);
    }
}

/// What [`StoreLock::acquire`] does while another run holds the store.
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
    /// [`StoreError::Busy`] with [`Wait::Never`]; a failed system call.
    pub fn acquire(store: &Store, wait: Wait, waiting: impl FnOnce()) -> Result<Self, StoreError> {
        let failed =
            |call, errno: Errno| StoreError::from(CallError::new(call, store.path(), errno));
        // flock(2) belongs to the open file description: a duplicate of the store's descriptor would share the lock.
        let directory = resolve::open_host_directory(store.path()).call("open", store.path())?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                return Ok(Self { directory });
            }
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed("flock", error)),
        }
        if wait == Wait::Never {
            return Err(StoreError::Busy {
                store: store.path().to_path_buf(),
            });
        }
        waiting();
        loop {
            match rustix::fs::flock(&directory, FlockOperation::LockExclusive) {
                Ok(()) => {
                    return Ok(Self { directory });
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed("flock", error)),
            }
        }
    }

    /// Announces, until the value is dropped, that this run replaces names in guests.
    #[must_use]
    pub fn announce(&self) -> Announced<'_> {
        let number = read(&self.directory).map_or(0, |(number, _)| number);
        write(&self.directory, number.wrapping_add(1), true);
        Announced(self)
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let directory = &self.0.directory;
        if let Some((number, true)) = read(directory) {
            write(directory, number, false);
        }
    }
}
