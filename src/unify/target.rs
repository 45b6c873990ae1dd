//! Who may change something: the difference between a run and a dry run, as a type.
//!
//! Everything that replaces a name, shares an extent, makes, marks or removes an object, or writes the index asks
//! for a [`Target`], or for what one gives ([`Target::announce`]). A dry run has none and no way to make one: its
//! lock is shut into [`Hold::Look`]. So no branch that somebody forgets lets a dry run write.

use std::fmt;

use vhashify_sys::call_error::{Call as _, FailedCall};
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::Timestamp;

use crate::error::Error;
use crate::outcome::Progress;
use crate::protect::{Protection, Sharing};
use crate::relink::work_directory::{Leftovers, WorkDirectory};
use crate::store::{Announced, Store, StoreError, StoreLock, Wait, note_guarded};

/// A store that no other run changes for as long as this lives.
pub enum Hold {
    /// To look at.
    Look {
        /// Nobody gets at it.
        _lock: StoreLock,
    },
    /// To change, with what the run's objects are put under.
    Change {
        /// The right to change the store.
        lock: StoreLock,
        /// What guests share.
        sharing: Sharing,
        /// Where temporary names lie.
        work: WorkDirectory,
    },
}

impl Hold {
    /// Keeps the lock for a dry run.
    #[must_use]
    pub fn to_look(lock: StoreLock) -> Self {
        Self::Look { _lock: lock }
    }

    /// Keeps the lock for a run that changes the store.
    ///
    /// # Errors
    /// There is no work directory.
    pub fn to_change(store: &Store, lock: StoreLock, sharing: Sharing) -> Result<Self, Error> {
        let work = work_directory(store, &lock)?;
        if sharing.reflink().is_none() && sharing.protection().is_enforced() {
            // Before the first object: nobody may count on the guard unsaid.
            note_guarded(store.directory(), &lock).call("fsetxattr", store.path())?;
        }
        Ok(Self::Change {
            lock,
            sharing,
            work,
        })
    }

    /// The right to change; a dry run has none.
    #[must_use]
    pub fn target(&self) -> Option<Target<'_>> {
        match self {
            Self::Look { .. } => None,
            Self::Change {
                lock,
                sharing,
                work,
            } => Some(Target {
                lock,
                work,
                protection: sharing.protection(),
                synchronised: Timestamp::default(),
            }),
        }
    }
}

/// Locks the store, and notes that it waits where another run holds it.
///
/// # Errors
/// [`Error::StoreBusy`] with [`Wait::Never`], and what `flock(2)` lists.
pub fn lock(store: &Store, wait: Wait, progress: &dyn Progress) -> Result<StoreLock, Error> {
    Ok(StoreLock::acquire(store, wait, || {
        let path = Shown::path(store.path()).to_string();
        progress.note(&format!("waiting for another run on {path}"));
    })?)
}

/// Opens the work directory beside the store, or makes it. Who has the lock is the one run that it is for.
///
/// # Errors
/// [`StoreError::WorkDirectory`].
pub fn work_directory(store: &Store, _lock: &StoreLock) -> Result<WorkDirectory, Error> {
    let opened = WorkDirectory::of_run(store.directory());
    opened.map_err(|failed| unusable(store, failed))
}

/// What dead runs and brokers left in the work directory.
///
/// # Errors
/// [`StoreError::WorkDirectory`].
pub fn leftovers(store: &Store, target: &Target<'_>) -> Result<Leftovers, Error> {
    let left = target.work.leftovers();
    left.map_err(|failed| unusable(store, failed))
}

fn unusable(store: &Store, failed: FailedCall) -> Error {
    let store = store.path().to_path_buf();
    StoreError::WorkDirectory { store, failed }.into()
}

/// The right to change the store and the guests that share it.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The right to change the store.
    pub lock: &'a StoreLock,
    /// Where temporary names lie.
    pub work: &'a WorkDirectory,
    /// What objects are put under.
    pub protection: &'a dyn Protection,
    /// What was written before this is on the disk.
    pub synchronised: Timestamp,
}

impl<'a> Target<'a> {
    /// Tells brokers that names are replaced from now on, until what comes back is dropped.
    #[must_use]
    pub fn announce(&self) -> Announced<'a> {
        self.lock.announce()
    }
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Target")
            .field("synchronised", &self.synchronised)
            .finish_non_exhaustive()
    }
}
