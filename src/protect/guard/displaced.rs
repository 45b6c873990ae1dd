//! Marks inodes whose names a command has exchanged for those of an object: the guard answers `ESTALE` to whoever comes for
//! one of them by a path that was resolved before, on which the kernel resolves it again.
//!
//! The mark lies in inode storage and goes with the inode. (A table by device and inode number hit the next file of that
//! number in 39 of 40 tries.)

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{InodeStorage, MapData, MapError};
use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};

use super::error::GuardError;
use super::pins;

/// The map of displaced inodes.
#[derive(Debug)]
pub struct Displaced(Mutex<InodeStorage<MapData, u32>>);

impl Displaced {
    /// Opens the map of the loaded guard.
    ///
    /// # Errors
    /// [`GuardError`]: no guard is loaded, or its map cannot be opened.
    pub fn open() -> Result<Self, GuardError> {
        pins::displaced().map(|map| Self(Mutex::new(map)))
    }

    /// Marks the inode behind a descriptor. Who looks at the inode after this has returned looks later than the mark: a
    /// process that the guard lets through from now on has counted as a writer before.
    ///
    /// # Errors
    /// `ENOMEM`, and what `bpf(2)` lists.
    pub fn mark(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        if fault::is_omitted(Point::TurnBack) {
            return Ok(());
        }
        let mark = || {
            let marked = self.map().insert(&file.as_raw_fd(), 1, 0);
            marked.map_err(|error| errno_of(&error))
        };
        let marked = fault::at(Point::TurnBack, mark);
        fence(Ordering::SeqCst);
        marked
    }

    /// Takes the mark away; that there is none is as good.
    ///
    /// # Errors
    /// What `bpf(2)` lists.
    pub fn unmark(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        match self.map().remove(&file.as_raw_fd()) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => match errno_of(&error) {
                Errno::NOENT => Ok(()),
                errno => Err(errno),
            },
        }
    }

    fn map(&self) -> MutexGuard<'_, InodeStorage<MapData, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the mark off an inode that is to get its names back, where a guard is loaded.
///
/// # Errors
/// What `bpf(2)` lists; `EIO` where the guard's map cannot be opened.
pub fn let_in(file: BorrowedFd<'_>) -> Result<(), Errno> {
    if !pins::is_loaded().map_err(|_| Errno::IO)? {
        return Ok(());
    }
    // A guard from before there was such a map has marked none.
    match Displaced::open() {
        Ok(displaced) => displaced.unmark(file),
        Err(_) => Ok(()),
    }
}

fn errno_of(error: &MapError) -> Errno {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Errno::from_io_error(error).unwrap_or(Errno::IO);
        }
        source = error.source();
    }
    Errno::IO
}
