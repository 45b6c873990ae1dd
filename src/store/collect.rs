//! Removes objects that no guest links.

use std::ffi::CStr;
use std::mem;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, Scope};

use rustix::io::Errno;
use serde::Serialize;

use super::list::{Gather, list};
use super::{Listed, ObjectName, Store, StoreLock};
use crate::error::Error;
use crate::report::FileError;
use crate::sys::stamp::Stamp;

/// What a collection did, or with `--dry-run` would do.
#[derive(Debug, Default, Serialize)]
pub struct GcReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The stores that were looked at.
    #[serde(serialize_with = "crate::report::shown_all")]
    pub stores: Vec<PathBuf>,
    /// Objects that were looked at.
    pub objects: u64,
    /// Objects that were removed.
    pub objects_removed: u64,
    /// Bytes of content of these.
    pub bytes_freed: u64,
    /// Objects that could not be looked at or removed.
    pub errors: Vec<FileError>,
}

/// Removes every object whose only name is its own.
///
/// No guest can give such an inode a new name, because it has none to start from, and no run can,
/// because of the lock: so the look at the link count cannot be outrun.
///
/// # Errors
/// A store that cannot be listed. An object that cannot be removed is in the report.
pub fn collect(store: &Store, lock: &StoreLock, dry_run: bool) -> Result<GcReport, Error> {
    let (sender, orphans) = channel();
    let removal = Removal::new(orphans, |name: &ObjectName| {
        if dry_run {
            return Ok(());
        }
        store.remove(lock, name)
    });
    let listed = std::thread::scope(|scope| {
        scope.spawn(|| removal.work(scope));
        let make = move || Looked::new(sender.clone());
        let listed = list(store.directory(), store.path(), &make);
        // No sender may be left: only then the removal ends, which the end of this scope waits for.
        listed.map(|(looked, _)| (looked.objects, looked.failed))
    });
    let (objects, not_looked_at) = listed?;
    let removed = removal.removed();
    let failed = |call, (name, errno): (ObjectName, Errno)| {
        FileError::call(call, store.path_of(&name), &errno.into())
    };
    let not_looked_at = not_looked_at.into_iter().map(|one| failed("statx", one));
    let not_removed = removed
        .failed
        .into_iter()
        .map(|one| failed("unlinkat", one));
    Ok(GcReport {
        dry_run,
        stores: vec![store.path().to_path_buf()],
        objects,
        objects_removed: removed.objects,
        bytes_freed: removed.bytes,
        errors: not_looked_at.chain(not_removed).collect(),
    })
}

/// Removes orphans while the store is still listed, by many threads at once.
///
/// Half of the mark is the flag `S`, and an inode that bears it does not go away before the journal has it
/// on the disk (`ext4_evict_inode`, fs/ext4/inode.c). Who waits for the journal together waits once.
struct Removal<F> {
    orphans: Mutex<Receiver<Orphan>>,
    remove: F,
    threads: AtomicUsize,
    removed: Mutex<Removed>,
}

/// What became of orphans.
#[derive(Debug, Default)]
struct Removed {
    objects: u64,
    bytes: u64,
    failed: Vec<(ObjectName, Errno)>,
}

impl<F: Fn(&ObjectName) -> Result<(), Errno> + Sync> Removal<F> {
    /// They sleep nearly all of the time.
    const MOST_THREADS: usize = 256;
    const STACK: usize = 64 << 10;

    fn new(orphans: Receiver<Orphan>, remove: F) -> Self {
        Self {
            orphans: Mutex::new(orphans),
            remove,
            threads: AtomicUsize::new(1),
            removed: Mutex::default(),
        }
    }

    /// Removes what comes until nothing can come any more. Each thread starts another one once it has something
    /// to do; where no more can be had, the others do it.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let mut removed = Removed::default();
        let mut is_last = true;
        while let Some(orphan) = self.next() {
            if mem::take(&mut is_last)
                && self.threads.fetch_add(1, Ordering::Relaxed) < Self::MOST_THREADS
            {
                let another = Builder::new().stack_size(Self::STACK);
                drop(another.spawn_scoped(scope, || self.work(scope)));
            }
            match (self.remove)(&orphan.name) {
                Ok(()) => {
                    removed.objects += 1;
                    removed.bytes += orphan.size;
                }
                Err(errno) => removed.failed.push((orphan.name, errno)),
            }
        }
        let mut all = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
        all.objects += removed.objects;
        all.bytes += removed.bytes;
        all.failed.append(&mut removed.failed);
    }

    fn next(&self) -> Option<Orphan> {
        let orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.recv().ok()
    }

    fn removed(self) -> Removed {
        let removed = self.removed.into_inner();
        removed.unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is seen of objects while they are listed.
#[derive(Debug)]
struct Looked {
    objects: u64,
    orphans: Sender<Orphan>,
    failed: Vec<(ObjectName, Errno)>,
}

/// An object without a name in a guest.
#[derive(Debug)]
struct Orphan {
    name: ObjectName,
    size: u64,
}

impl Looked {
    fn new(orphans: Sender<Orphan>) -> Self {
        Self {
            objects: 0,
            orphans,
            failed: Vec::new(),
        }
    }
}

impl Gather for Looked {
    fn object(&mut self, directory: BorrowedFd<'_>, file: &CStr, object: Listed) {
        match Stamp::at(directory, file.to_bytes()) {
            Ok(stamp) => {
                self.objects += 1;
                // What took an object's place by hand is none.
                if stamp.link_count == 1 && stamp.is_regular() {
                    let (name, size) = (object.name, stamp.size);
                    // It cannot fail: somebody receives as long as there is a sender.
                    let _ = self.orphans.send(Orphan { name, size });
                }
            }
            // An administrator's own cleanup was quicker.
            Err(Errno::NOENT) => {}
            Err(errno) => self.failed.push((object.name, errno)),
        }
    }

    fn merge(&mut self, mut other: Self) {
        self.objects += other.objects;
        self.failed.append(&mut other.failed);
    }
}

impl GcReport {
    /// The sum of both.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.dry_run |= other.dry_run;
        self.stores.extend(other.stores);
        self.objects += other.objects;
        self.objects_removed += other.objects_removed;
        self.bytes_freed += other.bytes_freed;
        self.errors.extend(other.errors);
        self
    }
}
