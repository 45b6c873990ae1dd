//! The index: what a run learned and the next one need not learn again.
//!
//! One redb file for each store, in the state directory and never in the store. It is a cache and
//! an account: no run links anything because the index says so, and a walk can make every row again.
//! A run sets an index aside that is damaged or that another version made, and begins a new one; that
//! costs one slower run.
//!
//! ```text
//! STATE/index-HASH.redb      HASH: of the store's path
//!   objects, inodes, links, scan cache, extents, reads      see [`rows`]
//!   guests   number → name and vdir
//!   runs     number → the run's report as JSON; the last 1000
//!   meta     format and store, so that a run notices another store's index
//! STATE/index-HASH.redb.unusable                     one that was set aside
//! ```
//!
//! `database` is the open file, which survives redb's panics; `read` and `write` are its tables; `error` tells
//! damage, where another file helps, from a fault of the place, where it does not.

mod database;
mod error;
mod read;
pub mod rows;
mod write;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};
use vhashify_sys::call_error::{Call as _, CallError};
use vhashify_sys::fault::{self, Point};
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::{Stamp, Timestamp};

pub use error::{IndexError, IndexFault};

use crate::identity::Identity;
use crate::store::{ObjectName, Store};
use database::{OpenDatabase, guarded};

const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
const INODES: TableDefinition<u64, &[u8]> = TableDefinition::new("inodes");
const LINKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("links");
const CACHE: TableDefinition<u64, &[u8]> = TableDefinition::new("scan cache");
const EXTENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("extents");
const READS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("reads");
const GUESTS: TableDefinition<u32, &[u8]> = TableDefinition::new("guests");
const RUNS: TableDefinition<u64, &str> = TableDefinition::new("runs");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// The format that this version reads and writes.
const FORMAT: u32 = 2;

/// Memory for pages of the index file.
const CACHE_BYTES: usize = 4 << 20;

/// How many runs are remembered.
const RUNS_KEPT: u64 = 1000;

/// What the index remembers, in memory.
#[derive(Debug, Default)]
pub struct IndexSnapshot {
    /// Objects, each as it was when it was last known to be what its name says.
    pub objects: HashMap<ObjectName, Stamp>,
    /// Private files that were read before, by inode.
    pub read: HashMap<u64, (Stamp, Identity)>,
    /// Where on the disk the extents begin that such a file shares, by inode.
    pub extents: HashMap<u64, u64>,
}

/// The links of one guest to one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLinks {
    /// The object, as a position in [`Update::objects`].
    pub object: u32,
    /// Count of names.
    pub count: u32,
    /// The names, where there is more than one.
    pub names: Box<[Vec<u8>]>,
}

/// What one guest is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestRow {
    /// Its name.
    pub name: Vec<u8>,
    /// Its vdir.
    pub vdir: Vec<u8>,
}

/// What a run adds.
#[derive(Debug, Default)]
pub struct Update {
    /// The objects that exist, as they are, sorted by name; all others are forgotten.
    pub objects: Vec<(ObjectName, Stamp)>,
    /// The private files that were read, now or before; all others are forgotten.
    pub read: HashMap<u64, (Stamp, Identity)>,
    /// Where on the disk the extents begin that such a file shares; all others are forgotten.
    pub extents: HashMap<u64, u64>,
    /// Objects whose content was read from the disk, each with when, in seconds since 1970; sorted by name. What is known
    /// of others stays.
    pub disk_reads: Vec<(ObjectName, i64)>,
    /// The guests of this run with all their links, sorted by object, each object once.
    pub guests: Vec<(GuestRow, Vec<GuestLinks>)>,
    /// The run's report as JSON, if it is to be remembered.
    pub run: Option<String>,
}

/// An open index.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    database: OpenDatabase,
}

impl Index {
    /// Where the index of `store` is kept.
    #[must_use]
    pub fn path(state_directory: &Path, store: &Path) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        let name = blake3::hash(store.as_os_str().as_bytes()).to_hex();
        state_directory.join(format!("index-{}.redb", &name[..16]))
    }

    /// Opens the index of `store`, or begins one. Renames an unusable one to `….unusable`, and tells `warn`.
    ///
    /// # Errors
    /// [`IndexError::Unusable`] when no index can be written there.
    pub fn open(
        state_directory: &Path,
        store: &Store,
        warn: impl FnOnce(String),
    ) -> Result<Self, IndexError> {
        std::fs::create_dir_all(state_directory).map_err(|source| IndexError::StateDirectory {
            path: state_directory.to_path_buf(),
            source,
        })?;
        let path = Self::path(state_directory, store.path());
        let failed = |source| IndexError::Unusable {
            path: path.clone(),
            source,
        };
        let mark = store_mark(store)?;
        if path.exists() {
            match guarded(|| Self::open_existing(&path, &mark)) {
                Ok(database) => return Ok(Self { path, database }),
                Err(fault) if fault.is_environment() => return Err(failed(fault)),
                Err(fault) => {
                    set_aside(&path)?;
                    warn(format!(
                        "the index {} cannot be used ({fault}); it is made anew, and this run \
                         takes longer",
                        Shown::path(&path)
                    ));
                }
            }
        }
        let database = guarded(|| fault::at(Point::IndexBegin, || Self::begin(&path, &mark)))
            .map_err(failed)?;
        Ok(Self { path, database })
    }

    /// What the index of `store` remembers, without changing it; nothing where it cannot be read.
    #[must_use]
    pub fn peek(state_directory: &Path, store: &Store) -> IndexSnapshot {
        let path = Self::path(state_directory, store.path());
        let Ok(mark) = store_mark(store) else {
            return IndexSnapshot::default();
        };
        read_only(&path, |transaction| {
            read::check_meta(transaction, &mark)?;
            read::load(transaction)
        })
    }

    /// The guests that the index of `store` knows, without changing it.
    #[must_use]
    pub fn peek_guests(state_directory: &Path, store: &Store) -> Vec<GuestRow> {
        let path = Self::path(state_directory, store.path());
        read_only(&path, |transaction| {
            read::guests(transaction).map(|guests| guests.into_values().collect())
        })
    }

    /// The reports of the last `most` runs on `store`, as JSON and each with its number, the oldest
    /// first; none where the index cannot be read. Changes nothing.
    #[must_use]
    pub fn peek_runs(state_directory: &Path, store: &Store, most: usize) -> Vec<(u64, String)> {
        let path = Self::path(state_directory, store.path());
        let Ok(mark) = store_mark(store) else {
            return Vec::new();
        };
        read_only(&path, |transaction| {
            read::check_meta(transaction, &mark)?;
            read::last_runs(transaction, most)
        })
    }

    /// Begins a new index in the place of this one.
    ///
    /// # Errors
    /// [`IndexError::Unusable`] when it cannot be written.
    pub fn clear(self, store: &Store) -> Result<Self, IndexError> {
        let Self { path, database } = self;
        drop(database);
        std::fs::remove_file(&path).call("unlink", &path)?;
        let mark = store_mark(store)?;
        match guarded(|| Self::begin(&path, &mark)) {
            Ok(database) => Ok(Self { path, database }),
            Err(source) => Err(IndexError::Unusable { path, source }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.path
    }

    /// Reads what a run needs to know. Damaged rows are left out.
    #[must_use]
    pub fn load(&self) -> IndexSnapshot {
        guarded(|| read::load(&self.database.begin_read()?)).unwrap_or_default()
    }

    /// The objects whose content was last read from the disk in this time, in seconds since 1970; sorted. Damaged rows are
    /// left out.
    #[must_use]
    pub fn read_within(&self, time: RangeInclusive<i64>) -> Vec<ObjectName> {
        guarded(|| read::read_within(&self.database.begin_read()?, &time)).unwrap_or_default()
    }

    /// Records objects whose content was read from the disk, as [`Update::disk_reads`].
    ///
    /// # Errors
    /// [`IndexError::Unusable`]; the index is then as it was before.
    pub fn record_reads(&self, reads: &[(ObjectName, i64)]) -> Result<(), IndexError> {
        let recorded = in_transaction(&self.database, |transaction| {
            write::write_reads(transaction, reads)
        });
        recorded.map_err(|source| IndexError::Unusable {
            path: self.path.clone(),
            source,
        })
    }

    /// Count of rows that cannot be read, or that contradict another row.
    #[must_use]
    pub fn inconsistencies(&self) -> u64 {
        guarded(|| read::inconsistencies(&self.database.begin_read()?)).unwrap_or(1)
    }

    /// Writes what a run learned, in one transaction. Rows that stay as they are are not written.
    ///
    /// # Errors
    /// [`IndexError::Unusable`]; the index is then as it was before.
    pub fn record(&self, update: &Update) -> Result<(), IndexError> {
        record(&self.database, update).map_err(|source| IndexError::Unusable {
            path: self.path.clone(),
            source,
        })
    }

    /// Writes what a run learned, as [`Index::record`], and closes the index.
    ///
    /// A disk can give other bytes now than at the opening. Then this sets the index aside, begins another one with
    /// what this run learned, and tells `warn`.
    ///
    /// # Errors
    /// [`IndexError::Unusable`]; the index is then as it was before.
    pub fn finish(
        self,
        store: &Store,
        update: &Update,
        warn: impl FnOnce(String),
    ) -> Result<(), IndexError> {
        let Self { path, database } = self;
        let failed = |source| IndexError::Unusable {
            path: path.clone(),
            source,
        };
        // Closing writes to the file, and can meet the damage, too.
        let fault = match record(&database, update).and_then(|()| database.close()) {
            Ok(()) => return Ok(()),
            Err(fault) if fault.is_damage() => fault,
            Err(fault) => return Err(failed(fault)),
        };
        set_aside(&path)?;
        warn(format!(
            "the index {} cannot be used ({fault}); it is made anew, and the next run takes longer",
            Shown::path(&path)
        ));
        let mark = store_mark(store)?;
        guarded(|| Self::begin(&path, &mark))
            .and_then(|database| record(&database, update))
            .map_err(failed)
    }

    fn open_existing(path: &Path, mark: &[u8]) -> Result<OpenDatabase, IndexFault> {
        let database = OpenDatabase::open(|| builder().open(path))?;
        let transaction = database.begin_read()?;
        read::check_meta(&transaction, mark)?;
        drop(transaction);
        Ok(database)
    }

    fn begin(path: &Path, mark: &[u8]) -> Result<OpenDatabase, IndexFault> {
        let database = OpenDatabase::open(|| builder().create(path))?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let format = FORMAT.to_le_bytes();
            meta.insert("format", format.as_slice())?;
            meta.insert("store", mark)?;
        }
        write::write(&transaction, &Update::default())?;
        transaction.commit()?;
        Ok(database)
    }
}

/// What `ask` finds in the index at `path`, which is not changed; nothing where it cannot be read.
fn read_only<T: Default>(
    path: &Path,
    ask: impl FnOnce(&ReadTransaction) -> Result<T, IndexFault>,
) -> T {
    guarded(|| {
        let database = builder().open_read_only(path)?;
        ask(&database.begin_read()?)
    })
    .unwrap_or_default()
}

fn record(database: &OpenDatabase, update: &Update) -> Result<(), IndexFault> {
    in_transaction(database, |transaction| write::write(transaction, update))
}

fn in_transaction(
    database: &OpenDatabase,
    write: impl FnOnce(&WriteTransaction) -> Result<(), IndexFault>,
) -> Result<(), IndexFault> {
    guarded(|| {
        let transaction = database.begin_write()?;
        write(&transaction)?;
        fault::at(Point::IndexCommit, || {
            transaction.commit()?;
            Ok(())
        })
    })
}

/// Renames an unusable index and keeps it, so that its damage can be looked into.
fn set_aside(path: &Path) -> Result<(), CallError> {
    let aside = path.with_extension("redb.unusable");
    fault::at(Point::IndexAside, || std::fs::rename(path, &aside)).call("rename", path)
}

/// Opens with a small cache, because a run reads the file once from one end to the other, and checks the sum of
/// every page first: with a turned bit, some queries would miss rows that others find, or redb would panic. The
/// check costs a run that finds nothing new some 7 % of its time.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

/// What identifies a store: its path and the inode number of its directory.
fn store_mark(store: &Store) -> Result<Vec<u8>, CallError> {
    use std::os::unix::ffi::OsStrExt;
    let inode = Stamp::of(store.directory())
        .call("statx", store.path())?
        .inode;
    Ok([
        store.path().as_os_str().as_bytes(),
        &[0],
        &inode.to_le_bytes(),
    ]
    .concat())
}

/// Whether the index may remember what was read of a file with this `stamp`: only if the file's last change is
/// older than the run. A file that changes twice in one tick of the clock, or in one second where the filesystem keeps
/// whole seconds, has the same ctime after both changes.
#[must_use]
pub fn may_be_remembered(stamp: &Stamp, run_began: Timestamp) -> bool {
    stamp.ctime.is_over_at(run_began)
}

/// Milliseconds between two ticks of the clock that stamps inodes, at the slowest (`HZ` of 100).
const LONGEST_TICK: u32 = 10;

/// The stamp under which the index remembers an object that was read and is still leased.
///
/// No change to come may leave the same one. Where the last change was in this tick of the clock, this waits for the
/// next one. Where it may have been in this very second, on a filesystem that keeps whole seconds, or lies in the
/// future, the object gets a stamp that no inode has: it is read again before the next guest links it.
#[must_use]
pub fn settled(stamp: Stamp) -> Stamp {
    for _ in 0..LONGEST_TICK {
        if stamp.ctime.is_over_at(Timestamp::now()) {
            return stamp;
        }
        if stamp.ctime.is_in_seconds() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Stamp {
        ctime: Timestamp::OF_NONE,
        ..stamp
    }
}
