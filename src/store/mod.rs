//! The store: a directory of objects and of nothing else.
//!
//! ```text
//! STORE/                         flock(2) on the directory itself is the lock
//!   4f/                          first byte of the digest
//!     4f90…-6c1d…-0              an object, instance 0 of its identity
//!     4f90…-6c1d…-1              the same content and metadata, for guests that have it twice
//!     a7/                        second byte, once the store holds more than 2,560,000 objects
//!       4fa7…-0b5e…-0
//! ```
//!
//! The store holds no lock file, no temporary file and no journal, so an administrator's cron job may run
//! `find STORE -type f -links 1 -print0 | xargs -0 rm` at any moment. It removes only objects that no guest
//! links; the next run makes one again where it is needed.
//!
//! ```text
//! Store ─ list ──────────────▶ Listed, or objects with their stamps (`list`: directories in parallel)
//!   │  └─ open, insert, remove   one object by its ObjectName (`name`)
//!   └─ StoreLock ─ collect ───▶ GcReport: objects whose only name is the store's own
//! ```
//!
//! A name in the store is made by `linkat(2)` from the *descriptor* of a file that was just proven, never by a
//! guest's path.

mod collect;
mod error;
mod guarded;
mod list;
mod lock;
mod name;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

pub use collect::{GcReport, collect};
pub use error::StoreError;
pub use guarded::{counts_on_guard, note_guarded};
pub use list::Listed;
pub use lock::{Announced, RunState, StoreLock, Wait, is_locked};
pub use name::ObjectName;

use crate::guest::StoreLocation;
use crate::identity::Digest;
use vhashify_sys::call_error::Call as _;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;

/// A directory holds at most about this many files before the store grows a level deeper.
const FILES_PER_DIRECTORY: usize = 10_000;

/// An open store. Each function that changes it asks for a [`StoreLock`], which is a value of its own.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    directory: OwnedFd,
    deep: bool,
    opened: Mutex<HashMap<Vec<u8>, Arc<OwnedFd>>>,
}

impl Store {
    /// Opens the store at `location`.
    ///
    /// # Errors
    /// A system call that failed on the directory.
    pub fn open(location: &StoreLocation) -> Result<Self, StoreError> {
        let directory = location.directory.try_clone().call("dup", &location.path)?;
        Ok(Self {
            path: location.path.clone(),
            directory,
            deep: false,
            opened: Mutex::default(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, open.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Has the filesystem write all dirty pages to the disk: before a name may lead to an inode, no power cut
    /// must be able to take the inode's bytes.
    ///
    /// # Errors
    /// What `syncfs(2)` lists.
    pub fn synchronise(&self) -> Result<(), StoreError> {
        if fault::is_omitted(Point::Sync) {
            return Ok(());
        }
        Ok(
            fault::at(Point::Sync, || rustix::fs::syncfs(&self.directory))
                .call("syncfs", &self.path)?,
        )
    }

    /// Lists all objects, and the paths of entries that are none (they are left alone).
    ///
    /// This reads the store's directories and never the index, which may be wrong.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn list(&mut self) -> Result<(Vec<Listed>, Vec<PathBuf>), StoreError> {
        let (objects, strangers) = list::list::<Vec<Listed>>(self.directory.as_fd(), &self.path)?;
        self.deep = objects.len() > FILES_PER_DIRECTORY * 256;
        Ok((objects, strangers))
    }

    /// Lists all objects that can be looked at, with their inodes.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn look_at_all(&mut self) -> Result<Vec<(ObjectName, Stamp)>, StoreError> {
        let (objects, _) = list::list::<Vec<_>>(self.directory.as_fd(), &self.path)?;
        self.deep = objects.len() > FILES_PER_DIRECTORY * 256;
        Ok(objects)
    }

    /// Opens an object for reading.
    ///
    /// # Errors
    /// `ENOENT` when it is not there (any more), and what `openat2(2)` lists.
    pub fn open_object(&self, name: &ObjectName) -> Result<OwnedFd, Errno> {
        let file = name.to_string();
        let mut found = Err(Errno::NOENT);
        for shard in shards(&name.identity.digest) {
            found = self
                .shard(shard.as_bytes(), Create::No)
                .and_then(|directory| {
                    resolve::open_file(directory.as_fd().as_fd(), file.as_bytes())
                });
            if !matches!(found, Err(Errno::NOENT)) {
                break;
            }
        }
        found
    }

    /// Where an object is, or would be put.
    #[must_use]
    pub fn path_of(&self, name: &ObjectName) -> PathBuf {
        let [shallow, deep] = shards(&name.identity.digest).map(|shard| {
            let mut path = self.path.join(shard);
            path.push(name.to_string());
            path
        });
        if self.deep || deep.exists() {
            deep
        } else {
            shallow
        }
    }

    /// Gives the inode behind `file` a name in the store.
    ///
    /// # Errors
    /// `EEXIST` when an object has that name already, and what `linkat(2)` lists.
    pub fn insert(
        &self,
        _lock: &StoreLock,
        name: &ObjectName,
        file: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let [shallow, deep] = shards(&name.identity.digest);
        let shard = if self.deep { deep } else { shallow };
        let directory = self.shard(shard.as_bytes(), Create::Yes)?;
        let name = name.to_string();
        fault::at(Point::ObjectLink, || {
            rustix::fs::linkat(file, c"", &*directory, name, AtFlags::EMPTY_PATH)
        })
    }

    /// Removes an object's name from the store. Guests that link the inode keep it.
    ///
    /// # Errors
    /// What `unlinkat(2)` lists, except `ENOENT`: the name is gone already.
    pub fn remove(&self, _lock: &StoreLock, name: &ObjectName) -> Result<(), Errno> {
        let file = name.to_string();
        for shard in shards(&name.identity.digest) {
            let removed = self
                .shard(shard.as_bytes(), Create::No)
                .and_then(|directory| {
                    fault::at(Point::ObjectUnlink, || {
                        rustix::fs::unlinkat(&*directory, file.as_str(), AtFlags::empty())
                    })
                });
            match removed {
                Err(Errno::NOENT) => {}
                other => return other,
            }
        }
        Ok(())
    }

    /// The directory `shard`, opened once and kept.
    fn shard(&self, shard: &[u8], create: Create) -> Result<Arc<OwnedFd>, Errno> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = opened.get(shard) {
            return Ok(Arc::clone(directory));
        }
        let directory = match resolve::open_directory(self.directory.as_fd(), shard) {
            Err(Errno::NOENT) if create == Create::Yes => {
                self.make_directories(shard)?;
                resolve::open_directory(self.directory.as_fd(), shard)?
            }
            other => other?,
        };
        let directory = Arc::new(directory);
        opened.insert(shard.to_vec(), Arc::clone(&directory));
        Ok(directory)
    }

    fn make_directories(&self, shard: &[u8]) -> Result<(), Errno> {
        let ends = shard
            .iter()
            .enumerate()
            .filter(|&(_, &byte)| byte == b'/')
            .map(|(at, _)| at);
        for end in ends.chain([shard.len()]) {
            // Mode 0700: an old set-user-ID program stays in the store after its guests upgraded.
            let make = || rustix::fs::mkdirat(&self.directory, &shard[..end], Mode::RWXU);
            match fault::at(Point::ObjectDirectory, make) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Create {
    Yes,
    No,
}

/// Where an object with this digest may be, shallow first.
fn shards(digest: &Digest) -> [String; 2] {
    let [first, second, ..] = digest;
    [format!("{first:02x}"), format!("{first:02x}/{second:02x}")]
}
