//! The replacements of one plan, from the exchange of their names until they are final.
//!
//! A transaction holds the lease of every file that it touches, from before the last check until the replacement is
//! final ([`crate::relink::swap`]):
//!
//! ```text
//! lease ─ read ─ link ─ exchange ─ … ─ settle ─┬─ all is as proven: finish
//!                                              └─ a writer waits, or something changed: undo
//! ```
//!
//! Where no guard turns late comers back, [`GRACE`] passes before: for a process that resolved a name to the old inode
//! before the exchange and had not come far enough in its `open(2)` to count as a writer. It costs no time: the worker
//! goes on with other files meanwhile.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::Stamp;

use super::open_object::OpenObject;
use super::target::Target;
use super::view::Known;
use super::worker_stats::WorkerStats;
use crate::identity::Identity;
use crate::identity::{Change, look_again};
use crate::outcome::{FileError, Skip};
use crate::relink::stray_links::StrayLinks;
use crate::relink::swap::Pending;
use crate::scan::{FileRecord, GuestId};

/// How long a replacement can be undone where no guard turns late comers back. The kernel takes far less time from
/// resolving a name to counting a writer, unless something stops the process in between.
pub const GRACE: Duration = Duration::from_millis(20);

/// The replacements of one plan, not final yet.
#[derive(Debug, Default)]
pub struct Transaction {
    /// The objects that names lead to, or may.
    pub objects: Vec<OpenObject>,
    /// The files whose names were exchanged.
    pub replacements: Vec<Replacement>,
}

/// A file of a guest all of whose names lead to an object now.
#[derive(Debug)]
pub struct Replacement {
    /// Its object, as a position in the transaction's objects.
    pub object: usize,
    /// The file that was replaced.
    pub old: LeasedFile,
    /// Its inode.
    pub stamp: Stamp,
    /// What it was proven to be.
    pub identity: Identity,
    /// One of its names.
    pub file: FileRecord,
    /// How many names in which guest.
    pub guests: Vec<(GuestId, u32)>,
    /// All of its names.
    pub pending: Pending,
    /// Whether the object was made as a copy of this file.
    pub is_by_its_copy: bool,
}

impl Transaction {
    /// Takes an object in: its position among the transaction's.
    ///
    /// # Errors
    /// Why there is none, as it was given.
    pub fn add(&mut self, object: Result<OpenObject, Skip>) -> Result<usize, Skip> {
        self.objects.push(object?);
        Ok(self.objects.len() - 1)
    }

    /// Objects, old files and directories.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        let names: usize = self
            .replacements
            .iter()
            .map(|one| one.pending.len() + 1)
            .sum();
        self.objects.len() + names
    }

    /// Checks everything once more, and makes each replacement final or undoes it.
    ///
    /// A replacement is undone when a process waits to write to the old file: it resolved the name before the
    /// exchange. A process that waits to write to the *object*, or has changed its metadata, is another matter.
    /// Where protection is enforced, it opened the object before that was protected, so by a name that led
    /// there before: the object is withdrawn. Where nothing is enforced, it may as well have opened it by a
    /// name that leads to the object since the exchange, and what it writes must be found there: the links
    /// stay.
    ///
    /// Returns what was undone, each with a name of the file: to look for stray links once more, a little later.
    pub fn finish<'a>(
        mut self,
        known: &'a Known<'a>,
        target: &Target<'a>,
        stats: &mut WorkerStats,
    ) -> Vec<(FileRecord, StrayLinks<'a>)> {
        let mut strays = Vec::new();
        let is_enforced = target.protection.is_enforced();
        let withdrawn: Vec<bool> = self
            .objects
            .iter()
            .map(|object| is_enforced && object.look_again().is_err())
            .collect();
        // A guest's file that gave way to its copy stays an object, alone as it is.
        let fewest = if target.protection.wants_copies() {
            1
        } else {
            2
        };
        let mut replaced: Vec<Vec<(GuestId, u32)>> = vec![Vec::new(); self.objects.len()];
        for replacement in self.replacements {
            let (at, guests) = (replacement.object, replacement.guests.clone());
            let object = &mut self.objects[at];
            match replacement.settle(object, withdrawn[at], known, target, stats) {
                Settled::Final => replaced[at].extend(guests),
                Settled::Undone(names) => strays.extend(names),
            }
        }
        for ((object, withdrawn), replaced) in self.objects.into_iter().zip(withdrawn).zip(replaced)
        {
            if withdrawn {
                object.withdraw(known.store, target, stats);
            } else {
                object.finish(replaced, fewest, known.store, target, stats);
            }
        }
        strays
    }
}

/// What became of a replacement.
enum Settled<'a> {
    /// It stands.
    Final,
    /// It was undone. Stray links of the file, with a name of it, are to be looked for once more.
    Undone(Option<(FileRecord, StrayLinks<'a>)>),
}

impl Replacement {
    /// Makes it final or undoes it, and counts it.
    fn settle<'a>(
        self,
        object: &mut OpenObject,
        is_withdrawn: bool,
        known: &'a Known<'a>,
        target: &Target<'a>,
        stats: &mut WorkerStats,
    ) -> Settled<'a> {
        let (file, files) = (self.file, self.pending.len() as u64);
        let path = || known.host_path(&file);
        let look = |temporary_names| {
            if is_withdrawn {
                return Err(Objection::Skip(Skip::OpenForWriting));
            }
            object_to(&self.old, &self.stamp, &self.identity, temporary_names)
        };
        let settled = self
            .pending
            .settle(self.old.as_fd(), target.protection, look);
        let done = match settled {
            Ok(done) => done,
            Err((objection, pending)) => {
                object.subtract_links(pending.len());
                let undone =
                    object.undo_names(pending, &self.old, &self.guests, known, target.work);
                let strays = undone.unwrap_or_else(|error| {
                    object.undo_failed(error, path(), stats);
                    None
                });
                match objection {
                    Objection::Skip(skip) => stats.skip(skip, files, file.size()),
                    Objection::NotTurnedBack(errno) => {
                        stats.failed(FileError::call("bpf", path(), &errno.into()), errno);
                    }
                }
                return Settled::Undone(strays.map(|strays| (file, strays)));
            }
        };
        match done.finish() {
            Ok(()) => {
                let relinked = object.relink_strays(&self.old, &self.guests, known, target.work);
                if let Err(error) = relinked {
                    object.undo_failed(error, path(), stats);
                }
            }
            Err(errno) => {
                stats.failed(FileError::call("unlinkat", path(), &errno.into()), errno);
            }
        }
        // A file that gave way to its own copy saved nothing.
        if !self.is_by_its_copy {
            let Stamp {
                size, allocated, ..
            } = self.stamp;
            stats.counts.unified(files, size, allocated);
        }
        Settled::Final
    }
}

/// Why a replacement must be undone.
enum Objection {
    /// For a reason that is no error.
    Skip(Skip),
    /// The guard could not be told to turn late comers back.
    NotTurnedBack(Errno),
}

impl From<Errno> for Objection {
    fn from(errno: Errno) -> Self {
        Self::NotTurnedBack(errno)
    }
}

/// Why the replacement of `old` must be undone, if it must.
fn object_to(
    old: &LeasedFile,
    stamp: &Stamp,
    identity: &Identity,
    temporary_names: usize,
) -> Result<(), Objection> {
    match look_again(old, stamp, identity) {
        // The old file must have its temporary names and no other. A name that the guest gave it since
        // the walk would still lead to it, and the others to the object.
        Ok(now) if now.link_count as usize > temporary_names => Err(Objection::Skip(Skip::Changed)),
        Ok(_) => Ok(()),
        Err(Change::WriterWaits) => Err(Objection::Skip(Skip::OpenForWriting)),
        Err(Change::MetadataChanged) => Err(Objection::Skip(Skip::Changed)),
    }
}
