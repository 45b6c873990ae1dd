//! Checks that every object is what its name says, and that the index says what is on the disk.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rustix::io::Errno;
use serde::Serialize;
use thiserror::Error;
use vhashify_sys::call_error::reason;
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::{Stamp, Timestamp};

use crate::identity::{self, Digester, Leased, Unproven};
use crate::index::{self, Index, Update};
use crate::outcome::{FileError, Progress, Skip};
use crate::protect::{Protection, holds_its_bytes};
use crate::store::{Listed, ObjectName, Store, StoreLock};

/// How thoroughly, and whether faults are mended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Check {
    /// Read every object's content from the disk (`--deep`), and tell the index so.
    pub deep: bool,
    /// Mend what is wrong (`--repair`); this reads all content, too.
    pub repair: bool,
}

impl Check {
    fn reads_content(self) -> bool {
        self.deep || self.repair
    }
}

/// What a verification found.
#[derive(Debug, Default, Serialize)]
pub struct VerifyReport {
    /// The stores that were looked at.
    #[serde(serialize_with = "crate::outcome::shown_all")]
    pub stores: Vec<PathBuf>,
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes of content that were read.
    pub bytes_read: u64,
    /// Rows of the index that differ from the disk.
    pub index_rows_wrong: u64,
    /// Objects that lacked the mark, or were taken out of the store because they are not what
    /// their name says, with `--repair`.
    pub objects_repaired: u64,
    /// Rows of the index after it was made anew, with `--repair`.
    pub index_rows_rebuilt: u64,
    /// What is wrong, each with its path. With `--repair`: what was, and could not be mended.
    pub errors: Vec<FileError>,
}

/// Verifies a store against itself and against its index.
///
/// With `repair` it makes the index anew from what it read, sets missing marks, and removes an object that is not
/// what its name says from the store: the guests that link it keep it as it is, and no run links it again.
///
/// # Errors
/// A store that cannot be listed, an index that cannot be written.
pub fn verify(
    store: &mut Store,
    lock: &StoreLock,
    index: Option<Index>,
    check: Check,
    protection: &dyn Protection,
    progress: &dyn Progress,
) -> Result<VerifyReport, crate::Error> {
    let (listed, strangers) = store.list()?;
    let store = &*store;
    let sizes = listed.len() as u64;
    progress.stage("verify", Some(sizes));
    let began = Timestamp::now().seconds;
    let verifier = Verifier {
        store,
        lock,
        check,
        protection,
        progress,
    };
    let (mut report, found) = listed
        .par_iter()
        .map_init(Digester::default, |digester, object| {
            verifier.object(object, digester)
        })
        .reduce(Default::default, |(one, mut found), (other, more)| {
            found.extend(more);
            (one.merged(other), found)
        });
    report.stores = vec![store.path().to_path_buf()];
    report
        .errors
        .extend(strangers.into_iter().map(|path| FileError {
            path,
            reason: "is not an object; move it out of the store".to_owned(),
        }));
    if let Some(index) = index {
        let read_at = check.reads_content().then_some(began);
        verifier.index(index, &listed, found, read_at, &mut report)?;
    }
    Ok(report)
}

struct Verifier<'a> {
    store: &'a Store,
    lock: &'a StoreLock,
    check: Check,
    protection: &'a dyn Protection,
    progress: &'a dyn Progress,
}

impl Verifier<'_> {
    fn object(
        &self,
        object: &Listed,
        digester: &mut Digester,
    ) -> (VerifyReport, HashMap<ObjectName, Stamp>) {
        let mut report = VerifyReport {
            objects: 1,
            ..VerifyReport::default()
        };
        let mut found = HashMap::new();
        match self.examine(object, digester, &mut report) {
            Ok(Some(stamp)) => {
                found.insert(object.name, stamp);
            }
            Ok(None) => {}
            Err(fault) => report.errors.push(FileError {
                path: self.store.path_of(&object.name),
                reason: fault.to_string(),
            }),
        }
        self.progress.advance(1);
        (report, found)
    }

    /// Compares the index with what was `found` of the objects in the store, and tells it when their content was read.
    fn index(
        &self,
        index: Index,
        listed: &[Listed],
        found: HashMap<ObjectName, Stamp>,
        read_at: Option<i64>,
        report: &mut VerifyReport,
    ) -> Result<(), crate::Error> {
        let mut objects: Vec<_> = found.into_iter().collect();
        objects.sort_unstable_by_key(|(name, _)| *name);
        let disk_reads: Vec<_> = read_at
            .into_iter()
            .flat_map(|when| objects.iter().map(move |(name, _)| (*name, when)))
            .collect();
        let recorded = index.load().objects;
        let stale = recorded.iter().filter(|(name, stamp)| {
            let found = objects.binary_search_by_key(name, |(name, _)| name);
            found.map_or(true, |at| {
                let now = &objects[at].1;
                (now.inode, now.size, now.mtime) != (stamp.inode, stamp.size, stamp.mtime)
            })
        });
        let unknown = listed
            .iter()
            .filter(|object| !recorded.contains_key(&object.name));
        report.index_rows_wrong =
            (stale.count() + unknown.count()) as u64 + index.inconsistencies();
        if self.check.repair {
            report.index_rows_rebuilt = objects.len() as u64;
            let update = Update {
                objects,
                disk_reads,
                ..Update::default()
            };
            return Ok(index.clear(self.store)?.record(&update)?);
        }
        if report.index_rows_wrong > 0 {
            report.errors.push(FileError {
                path: index.file().to_path_buf(),
                reason: format!(
                    "{} rows differ from the disk, which costs time and nothing else; \
                     run `vhashify verify --repair`",
                    report.index_rows_wrong
                ),
            });
        }
        if !disk_reads.is_empty() {
            index.record_reads(&disk_reads)?;
        }
        Ok(())
    }

    /// The object's stamp if it is what its name says; `None` if it vanished meanwhile, or was taken out of the
    /// store.
    fn examine(
        &self,
        object: &Listed,
        digester: &mut Digester,
        report: &mut VerifyReport,
    ) -> Result<Option<Stamp>, ObjectFault> {
        let opened = match self.store.open_object(&object.name) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => {
                report.objects = 0;
                return Ok(None);
            }
            Err(errno) => return Err(ObjectFault::failed("openat2", errno)),
        };
        let leased = Leased::new(opened)?;
        let (stamp, is_marked) = (leased.stamp, leased.is_marked);
        let (file, mismatch) = self.compare(object, leased, digester, report)?;
        match (mismatch, is_marked) {
            (None, true) if self.check.repair => Ok(Some(index::settled(stamp))),
            (None, true) => Ok(Some(stamp)),
            (None, false) if !self.check.repair => Err(ObjectFault::Mendable(Mismatch::Unmarked)),
            (None, false) => {
                let marked = self.protection.protect(file.as_fd());
                let stamp = marked.and_then(|()| Stamp::of(file.as_fd()).map(index::settled));
                report.objects_repaired = 1;
                stamp
                    .map(Some)
                    .map_err(|errno| ObjectFault::failed("ioctl(FS_IOC_SETFLAGS)", errno))
            }
            (Some(mismatch), _) if !self.check.repair => Err(ObjectFault::Mendable(mismatch)),
            (Some(mismatch), _) => {
                self.store
                    .remove(self.lock, &object.name)
                    .map_err(|source| ObjectFault::Kept { mismatch, source })?;
                report.objects_repaired = 1;
                Ok(None)
            }
        }
    }

    /// Compares an object with its name, and gives the first difference.
    fn compare(
        &self,
        object: &Listed,
        leased: Leased,
        digester: &mut Digester,
        report: &mut VerifyReport,
    ) -> Result<(LeasedFile, Option<Mismatch>), ObjectFault> {
        let identity = object.name.identity;
        if !self.check.reads_content() {
            let found = identity::fingerprint(leased.file.as_fd(), &leased.stamp, identity.mtime)
                .map_err(|failed| ObjectFault::failed(failed.call, failed.errno))?;
            let mismatch = (found != identity.fingerprint).then_some(Mismatch::Metadata);
            return Ok((leased.file, mismatch));
        }
        report.bytes_read += leased.stamp.size;
        let proven = leased.prove_from_disk(identity.mtime, digester)?;
        let file = proven.leased.file.as_fd();
        let mismatch = if proven.identity == identity {
            let is_held = holds_its_bytes(file, proven.leased.stamp.size)
                .map_err(|error| ObjectFault::failed("FS_IOC_MEASURE_VERITY", error))?;
            (!is_held).then_some(Mismatch::Verity)
        } else if proven.identity.digest == identity.digest {
            Some(Mismatch::Metadata)
        } else {
            Some(Mismatch::Content)
        };
        Ok((proven.leased.file, mismatch))
    }
}

/// In what an object differs from what its name says.
#[derive(Debug, Clone, Copy, Error)]
enum Mismatch {
    #[error("it lacks the mark of iunlink")]
    Unmarked,
    #[error("its metadata are not what its name says")]
    Metadata,
    #[error("its bytes are not what its name says")]
    Content,
    #[error("fs-verity holds other bytes than it has")]
    Verity,
}

/// What is wrong with an object, or with looking at it: a clause.
#[derive(Debug, Error)]
enum ObjectFault {
    #[error("{0}; run `vhashify verify --repair`")]
    Mendable(#[source] Mismatch),
    /// It could not be taken out of the store.
    #[error("{mismatch}; unlinkat: {}", reason(&io::Error::from(*source)))]
    Kept { mismatch: Mismatch, source: Errno },
    #[error("it cannot be read safely: {}", .0.name())]
    Skipped(Skip),
    #[error("{call}: {}", reason(source))]
    Failed {
        call: &'static str,
        source: io::Error,
    },
}

impl ObjectFault {
    fn failed(call: &'static str, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        Self::Failed { call, source }
    }
}

impl From<Unproven> for ObjectFault {
    fn from(unproven: Unproven) -> Self {
        match unproven {
            Unproven::Skipped(skip) => Self::Skipped(skip),
            Unproven::Failed(failed) => Self::failed(failed.call, failed.errno),
        }
    }
}

impl VerifyReport {
    /// The sum of both.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        self.stores.extend(other.stores);
        self.objects += other.objects;
        self.bytes_read += other.bytes_read;
        self.index_rows_wrong += other.index_rows_wrong;
        self.objects_repaired += other.objects_repaired;
        self.index_rows_rebuilt += other.index_rows_rebuilt;
        self.errors.extend(other.errors);
        self
    }
}
