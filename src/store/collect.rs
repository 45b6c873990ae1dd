//! Removes objects that no guest links.

use std::path::PathBuf;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rustix::io::Errno;
use serde::Serialize;

use super::{Listed, Store, StoreLock};
use crate::error::Error;
use crate::report::FileError;

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
pub fn collect(store: &mut Store, lock: &StoreLock, dry_run: bool) -> Result<GcReport, Error> {
    let (listed, _) = store.list()?;
    let store = &*store;
    let mut report = listed
        .par_iter()
        .map(|object| look_at(store, lock, object, dry_run))
        .reduce(GcReport::default, GcReport::merged);
    report.dry_run = dry_run;
    report.stores = vec![store.path().to_path_buf()];
    Ok(report)
}

fn look_at(store: &Store, lock: &StoreLock, object: &Listed, dry_run: bool) -> GcReport {
    let mut report = GcReport {
        objects: 1,
        ..GcReport::default()
    };
    let done = store.look_at(&object.name).and_then(|stamp| {
        // What took an object's place by hand is none.
        if stamp.link_count > 1 || !stamp.is_regular() {
            return Ok(None);
        }
        if !dry_run {
            store.remove(lock, &object.name)?;
        }
        Ok(Some(stamp.size))
    });
    match done {
        Ok(None) => {}
        Ok(Some(size)) => {
            report.objects_removed = 1;
            report.bytes_freed = size;
        }
        // An administrator's own cleanup was quicker.
        Err(Errno::NOENT) => report.objects = 0,
        Err(errno) => {
            let path = store.path_of(&object.name);
            report
                .errors
                .push(FileError::call("unlinkat", path, &errno.into()));
        }
    }
    report
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
