//! The replacements of one plan, from the exchange of their names until they are final.
//!
//! A transaction holds the lease of every file that it touches, from before the last check until a
//! little after the last exchange:
//!
//! ```text
//! lease ─ read ─ link ─ exchange ─ … ─ at least GRACE ─ look again ─┬─ all is as proven: finish
//!                                                                   └─ a writer waits: undo
//! ```
//!
//! The pause is for a process that resolved a name to the old inode before the exchange and had not come
//! far enough in its `open(2)` to count as a writer. It costs no time: the worker goes on with other files
//! meanwhile.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::Stamp;

use super::object;
use super::target::Target;
use super::view::Known;
use super::worker_stats::{Linked, WorkerStats};
use crate::identity::Identity;
use crate::identity::{Change, look_again};
use crate::outcome::{FileError, Skip};
use crate::relink::exchange::{Exchanged, UndoError};
use crate::relink::stray_links::{MOST_WALKS, StrayLinks, relink};
use crate::relink::temporary::Purpose;
use crate::relink::undo::{self, Pair};
use crate::scan::{FileRecord, GuestId};
use crate::store::{ObjectName, Store};

/// How long a replacement can be undone. The kernel takes far less time from resolving a name to counting a
/// writer, and no process waits that long for an `open(2)` in practice.
pub const GRACE: Duration = Duration::from_millis(20);

/// The replacements of one plan, not final yet.
#[derive(Debug, Default)]
pub struct Transaction {
    /// The objects that names lead to, or may.
    pub objects: Vec<OpenObject>,
    /// The files whose names were exchanged.
    pub replacements: Vec<Replacement>,
}

/// An object of the plan.
#[derive(Debug)]
pub struct OpenObject {
    /// The file.
    pub file: LeasedFile,
    /// Its inode when it was proven, or made.
    pub stamp: Stamp,
    /// Its link count, if nobody else changes it.
    pub links: u32,
    /// Its name in the store.
    pub name: ObjectName,
    /// Whether it became an object by this plan.
    pub is_new: bool,
    /// Whether it must stay an object, so that the next run can put right what this one could not.
    pub must_stay: bool,
    /// Who has it without any replacement: the guests whose file became the object.
    pub guests: Vec<(GuestId, u32)>,
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
    pub names: Vec<Exchanged>,
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
            .map(|one| one.names.len() + 1)
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
        target: &Target<'_>,
        stats: &mut WorkerStats,
    ) -> Vec<(FileRecord, StrayLinks<'a>)> {
        let mut strays = Vec::new();
        let withdrawn: Vec<bool> = self
            .objects
            .iter()
            .map(|object| {
                target.protection.is_enforced()
                    && look_again(&object.file, &object.stamp, &object.name.identity).is_err()
            })
            .collect();
        // A guest's file that gave way to its copy stays an object, alone as it is.
        let fewest = if target.protection.wants_copies() {
            1
        } else {
            2
        };
        let mut replaced: Vec<Vec<(GuestId, u32)>> = vec![Vec::new(); self.objects.len()];
        for replacement in self.replacements {
            let files = replacement.names.len() as u64;
            let skip = if withdrawn[replacement.object] {
                Some(Skip::OpenForWriting)
            } else {
                replacement.objection()
            };
            if let Some(skip) = skip {
                let object = &mut self.objects[replacement.object];
                let Replacement { names, old, .. } = replacement;
                object.links -= u32::try_from(names.len()).unwrap_or(0);
                match object.undo_names(names, &old, &replacement.guests, known) {
                    Ok(names) => strays.extend(names.map(|names| (replacement.file, names))),
                    Err(error) => {
                        object.undo_failed(error, known.host_path(&replacement.file), stats);
                    }
                }
                stats.skip(skip, files, replacement.file.size());
                continue;
            }
            let path = || known.host_path(&replacement.file);
            let mut is_finished = true;
            for name in replacement.names {
                if let Err(errno) = name.finish() {
                    is_finished = false;
                    stats.failed(FileError::call("unlinkat", path(), &errno.into()), errno);
                }
            }
            if is_finished {
                let object = &mut self.objects[replacement.object];
                let relinked = object.relink_strays(&replacement.old, &replacement.guests, known);
                if let Err(error) = relinked {
                    object.undo_failed(error, path(), stats);
                }
            }
            // A file that gave way to its own copy saved nothing.
            if !replacement.is_by_its_copy {
                stats
                    .counts
                    .unified(files, replacement.stamp.size, replacement.stamp.allocated);
            }
            replaced[replacement.object].extend(replacement.guests);
        }
        for ((object, withdrawn), mut links) in
            self.objects.into_iter().zip(withdrawn).zip(replaced)
        {
            links.extend_from_slice(&object.guests);
            if withdrawn {
                object.withdraw(known.store, target, stats);
            } else if object.is_new && !object.must_stay && links.len() < fewest {
                // All others fell out meanwhile: no second guest needs it.
                object.give_back(known.store, target, stats);
            } else {
                object.keep(links, known.store, stats);
            }
        }
        strays
    }
}

impl Replacement {
    /// Why it must be undone, if it must.
    fn objection(&self) -> Option<Skip> {
        match look_again(&self.old, &self.stamp, &self.identity) {
            // The old file must have its temporary names and no other. A name that the guest gave it since
            // the walk would still lead to it, and the others to the object.
            Ok(stamp) => (stamp.link_count as usize > self.names.len()).then_some(Skip::Changed),
            Err(Change::WriterWaits) => Some(Skip::OpenForWriting),
            Err(Change::MetadataChanged) => Some(Skip::Changed),
        }
    }
}

impl OpenObject {
    /// Lets names that were exchanged for this object lead to `old` again, the file of `guests`.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn undo_names<'a>(
        &self,
        names: Vec<Exchanged>,
        old: &LeasedFile,
        guests: &[(GuestId, u32)],
        known: &'a Known<'a>,
    ) -> Result<Option<StrayLinks<'a>>, UndoError> {
        let pair = Pair {
            old: old.as_fd(),
            new: self.file.as_fd(),
            links_without: self.links,
            guests: known.guests(guests),
            purpose: Purpose::Share,
        };
        undo::undo(names, pair)
    }

    /// Relinks names that `guests` gave `old`, which this object has replaced, during the exchange. The kernel
    /// gives an inode without a name none again (`vfs_link`, fs/namei.c), so this ends.
    ///
    /// # Errors
    /// [`UndoError`].
    fn relink_strays(
        &self,
        old: &LeasedFile,
        guests: &[(GuestId, u32)],
        known: &Known<'_>,
    ) -> Result<(), UndoError> {
        for _ in 0..MOST_WALKS {
            let old = Stamp::of(old.as_fd())?;
            if old.link_count == 0 {
                return Ok(());
            }
            for guest in known.guests(guests) {
                relink(guest, old.inode, self.file.as_fd(), Purpose::Share)?;
            }
        }
        Err(UndoError::KeepsMoving)
    }

    /// Reports that a replacement by it could not be undone. It stays an object, so that the next run can do it.
    pub fn undo_failed(&mut self, error: UndoError, path: PathBuf, stats: &mut WorkerStats) {
        self.must_stay = true;
        match error {
            UndoError::Failed(errno) => stats.failed(error.at(path), errno),
            UndoError::KeepsMoving | UndoError::Displaced(_) => stats.errors.push(error.at(path)),
        }
    }

    /// Records for the index what is linked now, unless a process writes to it: then nothing proves its content
    /// any more.
    fn keep(self, guests: Vec<(GuestId, u32)>, store: &Store, stats: &mut WorkerStats) {
        if let Ok(stamp) = look_again(&self.file, &self.stamp, &self.name.identity) {
            stats.objects.push(Linked {
                name: self.name,
                stamp: object::settled(stamp),
                guests,
            });
        } else {
            let reason = "a process writes to this shared file, which nothing protects; run \
                          `vhashify verify --deep`";
            stats.errors.push(FileError {
                path: store.path_of(&self.name),
                reason: reason.to_owned(),
            });
        }
    }

    /// A process opened it for writing before it was protected: nothing may link it from now on.
    fn withdraw(self, store: &Store, target: &Target<'_>, stats: &mut WorkerStats) {
        if self.is_new && !self.must_stay {
            stats.skipped.add(Skip::OpenForWriting, 1);
            self.give_back(store, target, stats);
        } else {
            let reason = "a process writes to this shared file; run `vhashify verify --deep`";
            stats.errors.push(FileError {
                path: store.path_of(&self.name),
                reason: reason.to_owned(),
            });
        }
    }

    /// A new object goes back to being a file of its guest and of nobody else.
    fn give_back(self, store: &Store, target: &Target<'_>, stats: &mut WorkerStats) {
        stats.counts.objects_created -= 1;
        let path = || store.path_of(&self.name);
        if let Err(errno) = store.remove(target.lock, &self.name) {
            let error = FileError::call("unlinkat", path(), &errno.into());
            stats.failed(error, errno);
        }
        if let Err(errno) = target.protection.release(self.file.as_fd()) {
            let error = FileError::call("ioctl(FS_IOC_SETFLAGS)", path(), &errno.into());
            stats.failed(error, errno);
        }
    }
}
