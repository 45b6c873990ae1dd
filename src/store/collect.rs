//! Removes objects that no guest links.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Builder;

use rustix::io::Errno;
use serde::Serialize;
use vhashify_sys::stamp::Stamp;

use super::list::{Gather, list};
use super::{Listed, ObjectName, Store, StoreError, StoreLock};
use crate::outcome::FileError;

/// What a collection did, or with `--dry-run` would do.
#[derive(Debug, Default, Serialize)]
pub struct GcReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The stores that were looked at.
    #[serde(serialize_with = "crate::outcome::shown_all")]
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

/// Removes every object whose only name is the one in the store.
///
/// No new name of such an inode can appear after the look at its link count: a guest has no name to link from,
/// and a run would need the lock.
///
/// # Errors
/// A store that cannot be listed. An object that cannot be removed is in the report.
pub fn collect(store: &Store, lock: &StoreLock, dry_run: bool) -> Result<GcReport, StoreError> {
    let (found, _) = list::<ObjectsSeen>(store.directory(), store.path())?;
    let mut report = GcReport {
        dry_run,
        stores: vec![store.path().to_path_buf()],
        objects: found.objects,
        ..GcReport::default()
    };
    let failed = |call, name: &ObjectName, errno: Errno| {
        let path = store.path_of(name);
        FileError::call(call, path, &errno.into())
    };
    for (name, errno) in &found.failed {
        report.errors.push(failed("statx", name, *errno));
    }
    let kept = if dry_run {
        BTreeMap::new()
    } else {
        remove_all(store, lock, &found.orphans)
    };
    for (number, orphan) in found.orphans.iter().enumerate() {
        if let Some(errno) = kept.get(&number) {
            report.errors.push(failed("unlinkat", &orphan.name, *errno));
            continue;
        }
        report.objects_removed += 1;
        report.bytes_freed += orphan.size;
    }
    Ok(report)
}

/// Removes the names of `orphans`, and returns what could not be removed, by position.
///
/// Many threads do it at once: half of the mark is the flag `S`, and the kernel evicts an inode with it only after
/// the journal is on the disk (`ext4_evict_inode`, fs/ext4/inode.c). Threads that wait for the journal together
/// wait for one commit.
fn remove_all(store: &Store, lock: &StoreLock, orphans: &[Orphan]) -> BTreeMap<usize, Errno> {
    /// They sleep nearly all of the time.
    const MOST_THREADS: usize = 1024;
    const STACK: usize = 64 << 10;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failed = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(orphan) = orphans.get(number) else {
                return failed;
            };
            if let Err(errno) = store.remove(lock, &orphan.name) {
                failed.push((number, errno));
            }
        }
    };
    std::thread::scope(|scope| {
        let more = 1..MOST_THREADS.min(orphans.len());
        let start = |_| Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        // Where the system gives no more threads, those that it gave do the work.
        let others: Vec<_> = more.map_while(|number| start(number).ok()).collect();
        let mut failed: BTreeMap<usize, Errno> = work().into_iter().collect();
        for other in others {
            let of_other = other.join();
            failed.extend(of_other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        failed
    })
}

/// What one thread saw of objects.
#[derive(Debug, Default)]
struct ObjectsSeen {
    objects: u64,
    orphans: Vec<Orphan>,
    failed: Vec<(ObjectName, Errno)>,
}

/// An object without a name in a guest.
#[derive(Debug)]
struct Orphan {
    name: ObjectName,
    size: u64,
}

impl Gather for ObjectsSeen {
    fn object(&mut self, directory: BorrowedFd<'_>, file: &CStr, object: Listed) {
        match Stamp::at(directory, file) {
            Ok(stamp) => {
                self.objects += 1;
                // An administrator may have put something else in an object's place.
                if stamp.link_count == 1 && stamp.is_regular() {
                    self.orphans.push(Orphan {
                        name: object.name,
                        size: stamp.size,
                    });
                }
            }
            // An administrator's own cleanup was quicker.
            Err(Errno::NOENT) => {}
            Err(errno) => self.failed.push((object.name, errno)),
        }
    }

    fn merge(&mut self, mut other: Self) {
        self.objects += other.objects;
        self.orphans.append(&mut other.orphans);
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
