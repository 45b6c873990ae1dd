//! Which objects a run must read from the disk before it gives them to a further guest.
//!
//! An object that rotted on the disk has the stamp that it had when it was proven. A guest's good file would be replaced
//! by it. So a run reads an object before it links it for a further guest, unless the index says that it was read within
//! a limit of days: by such a run, or by `verify --deep`. An object that no further guest needs is not read.
//!
//! That a run made the object does not count as reading it: its content came from the page cache, maybe moments after
//! a guest had written it. Btrfs (where it keeps checksums: `nodatasum` is nobody's default) and fs-verity check all that
//! they read and give no rotten byte to anybody.

use std::sync::{Mutex, OnceLock, PoisonError};

use vhashify_sys::call_error::Call as _;
use vhashify_sys::filesystem_kind::FilesystemKind;
use vhashify_sys::stamp::Timestamp;

use crate::error::Error;
use crate::index::Index;
use crate::protect::Mode;
use crate::store::{ObjectName, Store};

const SECONDS_OF_A_DAY: i64 = 24 * 3600;

/// Which objects were read from the disk lately. It keeps the index until the run writes it: most runs never ask.
#[derive(Debug)]
pub struct DiskReads {
    /// Whether what reads a file gets no rotten byte.
    is_content_checked: bool,
    /// Seconds for which a reading counts.
    limit: i64,
    /// When the run began, in seconds since 1970.
    began: i64,
    index: Mutex<Option<Index>>,
    /// The objects that were read within the limit, sorted; empty until somebody asks.
    lately: OnceLock<Vec<ObjectName>>,
}

impl DiskReads {
    /// What `index` says of the objects of `store`, where a reading counts for so many `days`.
    ///
    /// # Errors
    /// What `fstatfs(2)` lists.
    pub fn new(
        store: &Store,
        mode: Mode,
        days: u32,
        began: Timestamp,
        index: Option<Index>,
    ) -> Result<Self, Error> {
        let kind = FilesystemKind::of(store.directory()).call("fstatfs", store.path())?;
        Ok(Self {
            is_content_checked: mode == Mode::Verity || kind == FilesystemKind::Btrfs,
            limit: i64::from(days) * SECONDS_OF_A_DAY,
            began: began.seconds,
            index: Mutex::new(index),
            lately: OnceLock::new(),
        })
    }

    /// Whether an object must be read from the disk before a further guest gets it. The answer is the same during all of
    /// the run.
    pub fn is_due(&self, name: &ObjectName) -> bool {
        if self.is_content_checked {
            return false;
        }
        let lately = self.lately.get_or_init(|| {
            let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            match &*index {
                // A time in the future is one of a wrong clock.
                Some(index) if self.limit > 0 => {
                    index.read_within(self.began - self.limit..=self.began)
                }
                _ => Vec::new(),
            }
        });
        lately.binary_search(name).is_err()
    }

    /// The index, to be written. From now on this knows no more than it was asked for.
    pub fn take_index(&self) -> Option<Index> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        index.take()
    }
}
