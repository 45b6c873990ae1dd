//! The index: what a run learned and the next one need not learn again.
//!
//! One redb file for each store, in the state directory and never in the store. It is a cache and
//! an account: nothing is ever linked because the index says so, and every row can be made again
//! by a walk. An index that is missing, damaged or made by another version is set aside and begun
//! anew; that costs one slower run.
//!
//! Rows are described in [`rows`]. Beside those tables stand `guests` (number → name and vdir),
//! `runs` (number → report as JSON) and `meta` (format and store, to notice another store's index).

mod database;
pub mod rows;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;
use vhashify_sys::call_error::reason;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::{Stamp, Timestamp};

use self::database::{OpenDatabase, guarded};
use crate::error::{Call as _, Error};
use crate::identity::Identity;
use crate::store::{ObjectName, Store};

const OBJECTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("objects");
const INODES: TableDefinition<u64, &[u8]> = TableDefinition::new("inodes");
const LINKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("links");
const CACHE: TableDefinition<u64, &[u8]> = TableDefinition::new("scan cache");
const EXTENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("extents");
const GUESTS: TableDefinition<u32, &[u8]> = TableDefinition::new("guests");
const RUNS: TableDefinition<u64, &str> = TableDefinition::new("runs");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// The format that this version reads and writes.
const FORMAT: u32 = 2;

/// Memory for pages of the index file.
const CACHE_BYTES: usize = 4 << 20;

/// How many runs are remembered.
const RUNS_KEPT: u64 = 1000;

/// Why an index could not be used. The caller begins a new one, or goes on without.
#[derive(Debug, Error)]
enum Fault {
    #[error("{}", words(.0))]
    Redb(#[from] redb::Error),
    #[error("it belongs to another store")]
    OtherStore,
    #[error("its format {0} is not that of this version")]
    OtherFormat(u32),
    #[error("it is damaged")]
    Damaged,
}

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Redb(redb::Error::Io(errno.into()))
    }
}

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

    /// Opens the index of `store`, or begins one. An unusable one is set aside under the name
    /// `….unusable`, and `warn` hears of it.
    ///
    /// # Errors
    /// [`Error::Index`] when no index can be written there.
    pub fn open(
        state_directory: &Path,
        store: &Store,
        warn: impl FnOnce(String),
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(state_directory).map_err(|source| Error::StateDirectory {
            path: state_directory.to_path_buf(),
            source,
        })?;
        let path = Self::path(state_directory, store.path());
        let failed = |fault: &Fault| Error::Index {
            path: path.clone(),
            reason: fault.to_string(),
        };
        let mark = store_mark(store)?;
        if path.exists() {
            match guarded(|| Self::open_existing(&path, &mark)) {
                Ok(database) => return Ok(Self { path, database }),
                Err(fault) if is_environment(&fault) => return Err(failed(&fault)),
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
            .map_err(|fault| failed(&fault))?;
        Ok(Self { path, database })
    }

    /// What the index of `store` remembers, without changing it; nothing where it cannot be read.
    #[must_use]
    pub fn peek(state_directory: &Path, store: &Store) -> IndexSnapshot {
        let path = Self::path(state_directory, store.path());
        let Ok(mark) = store_mark(store) else {
            return IndexSnapshot::default();
        };
        let read = guarded(|| {
            let database = builder().open_read_only(&path).map_err(redb::Error::from)?;
            let transaction = database.begin_read().map_err(redb::Error::from)?;
            check_meta(&transaction, &mark)?;
            load(&transaction)
        });
        read.unwrap_or_default()
    }

    /// The guests that the index of `store` knows, without changing it.
    #[must_use]
    pub fn peek_guests(state_directory: &Path, store: &Store) -> Vec<GuestRow> {
        let path = Self::path(state_directory, store.path());
        guarded(|| {
            let database = builder().open_read_only(&path).map_err(redb::Error::from)?;
            let transaction = database.begin_read().map_err(redb::Error::from)?;
            guests(&transaction).map(|guests| guests.into_values().collect())
        })
        .unwrap_or_default()
    }

    /// The reports of the last `most` runs on `store`, as JSON and each with its number, the oldest
    /// first; none where the index cannot be read. Changes nothing.
    #[must_use]
    pub fn peek_runs(state_directory: &Path, store: &Store, most: usize) -> Vec<(u64, String)> {
        let path = Self::path(state_directory, store.path());
        let Ok(mark) = store_mark(store) else {
            return Vec::new();
        };
        guarded(|| {
            let database = builder().open_read_only(&path).map_err(redb::Error::from)?;
            let transaction = database.begin_read().map_err(redb::Error::from)?;
            check_meta(&transaction, &mark)?;
            last_runs(&transaction, most)
        })
        .unwrap_or_default()
    }

    /// Begins a new index in the place of this one.
    ///
    /// # Errors
    /// [`Error::Index`] when it cannot be written.
    pub fn clear(self, store: &Store) -> Result<Self, Error> {
        let Self { path, database } = self;
        drop(database);
        std::fs::remove_file(&path).call("unlink", &path)?;
        let mark = store_mark(store)?;
        match guarded(|| Self::begin(&path, &mark)) {
            Ok(database) => Ok(Self { path, database }),
            Err(fault) => Err(Error::Index {
                path,
                reason: fault.to_string(),
            }),
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
        guarded(|| load(&self.database.begin_read()?)).unwrap_or_default()
    }

    /// Rows that exist but cannot be read, or that say two things: how many.
    #[must_use]
    pub fn inconsistencies(&self) -> u64 {
        guarded(|| inconsistencies(&self.database.begin_read()?)).unwrap_or(1)
    }

    /// Writes what a run learned, in one transaction. Rows that stay as they are are not written.
    ///
    /// # Errors
    /// [`Error::Index`]; the index is then as it was before.
    pub fn record(&self, update: &Update) -> Result<(), Error> {
        record(&self.database, update).map_err(|fault| Error::Index {
            path: self.path.clone(),
            reason: fault.to_string(),
        })
    }

    /// Writes what a run learned, as [`Index::record`], and closes the index.
    ///
    /// Damage may show only now, where a disk gives other bytes than at the opening: then the index is set
    /// aside and begun anew with what this run learned, and `warn` hears of it.
    ///
    /// # Errors
    /// [`Error::Index`]; the index is then as it was before.
    pub fn finish(
        self,
        store: &Store,
        update: &Update,
        warn: impl FnOnce(String),
    ) -> Result<(), Error> {
        let Self { path, database } = self;
        let failed = |fault: &Fault| Error::Index {
            path: path.clone(),
            reason: fault.to_string(),
        };
        // Closing it writes to it, which may meet the damage, too.
        let fault = match record(&database, update).and_then(|()| database.close()) {
            Ok(()) => return Ok(()),
            Err(fault) if is_damage(&fault) => fault,
            Err(fault) => return Err(failed(&fault)),
        };
        set_aside(&path)?;
        warn(format!(
            "the index {} cannot be used ({fault}); it is made anew, and the next run takes longer",
            Shown::path(&path)
        ));
        let mark = store_mark(store)?;
        guarded(|| Self::begin(&path, &mark))
            .and_then(|database| record(&database, update))
            .map_err(|fault| failed(&fault))
    }

    fn open_existing(path: &Path, mark: &[u8]) -> Result<OpenDatabase, Fault> {
        let database = OpenDatabase::open(|| builder().open(path))?;
        let transaction = database.begin_read()?;
        check_meta(&transaction, mark)?;
        drop(transaction);
        Ok(database)
    }

    fn begin(path: &Path, mark: &[u8]) -> Result<OpenDatabase, Fault> {
        let database = OpenDatabase::open(|| builder().create(path))?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META).map_err(redb::Error::from)?;
            let format = FORMAT.to_le_bytes();
            meta.insert("format", format.as_slice())
                .map_err(redb::Error::from)?;
            meta.insert("store", mark).map_err(redb::Error::from)?;
        }
        write::write(&transaction, &Update::default())?;
        transaction.commit().map_err(redb::Error::from)?;
        Ok(database)
    }
}

fn record(database: &OpenDatabase, update: &Update) -> Result<(), Fault> {
    guarded(|| {
        let transaction = database.begin_write()?;
        write::write(&transaction, update)?;
        fault::at(Point::IndexCommit, || {
            transaction.commit().map_err(redb::Error::from)?;
            Ok(())
        })
    })
}

/// Gives an index that cannot be used another name, for whoever wants to know why.
fn set_aside(path: &Path) -> Result<(), Error> {
    let aside = path.with_extension("redb.unusable");
    fault::at(Point::IndexAside, || std::fs::rename(path, &aside)).call("rename", path)
}

/// How the file is opened: with a small cache, because it is read from one end to the other once; and after a
/// look at every page's sum, without which a turned bit hides rows from some ways of asking and not from others,
/// or is met by a panic. That costs a run that finds nothing new some 7 % of its time.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

/// What tells this store from any other: its path and the inode of its directory.
fn store_mark(store: &Store) -> Result<Vec<u8>, Error> {
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

/// What redb says, or the system where it is the system's error.
fn words(error: &redb::Error) -> String {
    match error {
        redb::Error::Io(error) => reason(error),
        other => other.to_string(),
    }
}

/// Whether the fault lies with the place and not with the content: making it anew would not help.
fn is_environment(fault: &Fault) -> bool {
    use std::io::ErrorKind;
    match fault {
        Fault::Redb(redb::Error::Io(error)) => matches!(
            error.kind(),
            ErrorKind::PermissionDenied
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::StorageFull
                | ErrorKind::IsADirectory
        ),
        Fault::Redb(redb::Error::DatabaseAlreadyOpen) => true,
        _ => false,
    }
}

/// Whether the fault lies with the content, so that making it anew helps.
fn is_damage(fault: &Fault) -> bool {
    use std::io::ErrorKind;
    match fault {
        // What a damaged page leads to may be behind the end of the file, or nowhere.
        Fault::Redb(redb::Error::Io(error)) => matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::InvalidInput
        ),
        _ => !is_environment(fault),
    }
}

fn check_meta(transaction: &ReadTransaction, mark: &[u8]) -> Result<(), Fault> {
    let meta = transaction.open_table(META).map_err(redb::Error::from)?;
    let get = |key| -> Result<Option<Vec<u8>>, Fault> {
        let found = meta.get(key).map_err(redb::Error::from)?;
        Ok(found.map(|found| found.value().to_vec()))
    };
    let format = get("format")?.and_then(|format| format.try_into().ok());
    match format.map(u32::from_le_bytes) {
        Some(FORMAT) => {}
        Some(other) => return Err(Fault::OtherFormat(other)),
        None => return Err(Fault::Damaged),
    }
    if get("store")?.as_deref() == Some(mark) {
        Ok(())
    } else {
        Err(Fault::OtherStore)
    }
}

fn load(transaction: &ReadTransaction) -> Result<IndexSnapshot, Fault> {
    let mut loaded = IndexSnapshot::default();
    let table = transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
    for row in table.iter().map_err(redb::Error::from)? {
        let (key, value) = row.map_err(redb::Error::from)?;
        let name = key.value().try_into().ok().and_then(ObjectName::from_bytes);
        let stamp =
            rows::unseal("objects", key.value(), value.value()).and_then(rows::stamp_from_bytes);
        if let (Some(name), Some(stamp)) = (name, stamp) {
            loaded.objects.insert(name, stamp);
        }
    }
    let table = transaction.open_table(CACHE).map_err(redb::Error::from)?;
    for row in table.iter().map_err(redb::Error::from)? {
        let (key, value) = row.map_err(redb::Error::from)?;
        let inode = key.value();
        let cached = rows::unseal("scan cache", &inode.to_le_bytes(), value.value())
            .and_then(rows::cached_from_bytes);
        loaded.read.extend(cached.map(|cached| (inode, cached)));
    }
    let table = transaction.open_table(EXTENTS).map_err(redb::Error::from)?;
    for row in table.iter().map_err(redb::Error::from)? {
        let (key, value) = row.map_err(redb::Error::from)?;
        let inode = key.value();
        let at = rows::unseal("extents", &inode.to_le_bytes(), value.value())
            .and_then(rows::address_from_bytes);
        loaded.extents.extend(at.map(|at| (inode, at)));
    }
    Ok(loaded)
}

fn guests(transaction: &ReadTransaction) -> Result<BTreeMap<u32, GuestRow>, Fault> {
    let table = transaction.open_table(GUESTS).map_err(redb::Error::from)?;
    let mut guests = BTreeMap::new();
    for row in table.iter().map_err(redb::Error::from)? {
        let (number, value) = row.map_err(redb::Error::from)?;
        guests.extend(rows::guest_from_bytes(value.value()).map(|guest| (number.value(), guest)));
    }
    Ok(guests)
}

fn last_runs(transaction: &ReadTransaction, most: usize) -> Result<Vec<(u64, String)>, Fault> {
    let table = transaction.open_table(RUNS).map_err(redb::Error::from)?;
    let mut runs = Vec::new();
    for row in table.iter().map_err(redb::Error::from)?.rev().take(most) {
        let (number, report) = row.map_err(redb::Error::from)?;
        runs.push((number.value(), report.value().to_owned()));
    }
    runs.reverse();
    Ok(runs)
}

fn inconsistencies(transaction: &ReadTransaction) -> Result<u64, Fault> {
    let mut wrong = 0;
    let inodes = transaction.open_table(INODES).map_err(redb::Error::from)?;
    let (mut by_inode, mut all) = (HashMap::new(), 0_u64);
    for row in inodes.iter().map_err(redb::Error::from)? {
        let (inode, name) = row.map_err(redb::Error::from)?;
        let name = name.value().try_into().ok();
        by_inode.insert(inode.value(), name.and_then(ObjectName::from_bytes));
        all += 1;
    }
    let objects = transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
    let mut count = 0_u64;
    for row in objects.iter().map_err(redb::Error::from)? {
        let (key, value) = row.map_err(redb::Error::from)?;
        let stamp =
            rows::unseal("objects", key.value(), value.value()).and_then(rows::stamp_from_bytes);
        let Some(stamp) = stamp else {
            wrong += 1;
            continue;
        };
        count += 1;
        let name = key.value().try_into().ok().and_then(ObjectName::from_bytes);
        let found = by_inode.get(&stamp.inode).copied().flatten();
        wrong += u64::from(found.is_none() || found != name);
    }
    wrong += all.saturating_sub(count);
    for (name, table) in [("scan cache", CACHE), ("extents", EXTENTS)] {
        let table = transaction.open_table(table).map_err(redb::Error::from)?;
        for row in table.iter().map_err(redb::Error::from)? {
            let (key, value) = row.map_err(redb::Error::from)?;
            let sealed = value.value();
            wrong += u64::from(rows::unseal(name, &key.value().to_le_bytes(), sealed).is_none());
        }
    }
    let links = transaction.open_table(LINKS).map_err(redb::Error::from)?;
    for row in links.iter().map_err(redb::Error::from)? {
        let (key, value) = row.map_err(redb::Error::from)?;
        wrong += u64::from(rows::unseal("links", key.value(), value.value()).is_none());
    }
    Ok(wrong)
}

/// Whether a file read under `stamp` may be believed to be the same later: only when its last
/// change is older than the run that read it. Changed in the same tick of the clock, it could
/// change again and look the same.
#[must_use]
pub fn may_be_remembered(stamp: &Stamp, run_began: Timestamp) -> bool {
    stamp.ctime < run_began
}
