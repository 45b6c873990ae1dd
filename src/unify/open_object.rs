//! An object of a plan, held open from its proof to the end of its transaction, and whether it can still become its
//! guest's private file again.
//!
//! ```text
//! made ─▶ with its WayBack ─▶ give_back: unmarked, out of the store: its guest's file and nobody else's
//!             │ swap: a name of another guest leads to it, if only for an instant
//!             ▼
//! found ─▶ without ─────────▶ keep: marked and in the store, whatever became of the replacements
//! ```
//!
//! A guest whose name led to an inode may have opened it meanwhile, or have given it one more name, and no look tells.
//! Without its mark, that guest could write into the file of the other one. So nothing but
//! [`swap`](OpenObject::swap) lets a guest's name lead to an object, it takes the [`WayBack`] away for good, and
//! [`give_back`](OpenObject::give_back) asks for it.

use std::os::fd::AsFd;
use std::path::PathBuf;

use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::Stamp;

use super::object::ProvenObject;
use super::target::Target;
use super::view::Known;
use super::worker_stats::{Linked, WorkerStats};
use crate::identity::{Change, look_again};
use crate::index;
use crate::outcome::{FileError, Skip};
use crate::relink::exchange::{ExchangeError, UndoError};
use crate::relink::stray_links::{MOST_WALKS, StrayLinks, relink};
use crate::relink::swap::{FileSwap, NameAt, Pending, Refused};
use crate::relink::temporary::{Purpose, Serving};
use crate::relink::undo::Pair;
use crate::relink::work_directory::WorkDirectory;
use crate::scan::GuestId;
use crate::store::{ObjectName, Store};

/// An object of the plan.
#[derive(Debug)]
pub struct OpenObject {
    file: LeasedFile,
    /// Its inode when it was proven, or made.
    stamp: Stamp,
    /// Its link count, if nobody else changes it.
    links: u32,
    name: ObjectName,
    way_back: Option<WayBack>,
    /// Who has it without any replacement: the guests whose file became the object.
    guests: Vec<(GuestId, u32)>,
}

/// The right to make an object a private file: no name of another guest has ever led to it.
#[derive(Debug)]
pub struct WayBack(());

impl OpenObject {
    /// One that was there before this run.
    #[must_use]
    pub fn found(object: ProvenObject, name: ObjectName) -> Self {
        let ProvenObject { file, stamp } = object;
        Self {
            file,
            stamp,
            links: stamp.link_count,
            name,
            way_back: None,
            guests: Vec::new(),
        }
    }

    /// One that this plan made, with `links` by now: of a file of `guests`, or of a copy that no guest has yet.
    #[must_use]
    pub fn made(
        object: ProvenObject,
        name: ObjectName,
        links: u32,
        guests: Vec<(GuestId, u32)>,
    ) -> Self {
        let ProvenObject { file, stamp } = object;
        Self {
            file,
            stamp,
            links,
            name,
            way_back: Some(WayBack(())),
            guests,
        }
    }

    /// Whether it still is what was proven. A process may wait to write to it, or have changed its metadata.
    ///
    /// # Errors
    /// [`Change`].
    pub fn look_again(&self) -> Result<Stamp, Change> {
        look_again(&self.file, &self.stamp, &self.name.identity)
    }

    /// Lets `names` of guests, which are all names of the inode `old`, lead to it. From the first one on it is an object
    /// for good.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn swap<'n>(
        &mut self,
        work: &WorkDirectory,
        old: u64,
        names: impl IntoIterator<Item = Result<NameAt<'n>, ExchangeError>>,
    ) -> Result<Pending, Refused> {
        let swap = FileSwap {
            work,
            serving: self.serving(),
            old,
            new: self.file.as_fd(),
            new_inode: self.stamp.inode,
        };
        let begun = swap.begin(names, || {});
        let (Ok(pending) | Err(Refused { pending, .. })) = &begun;
        if !pending.is_empty() {
            self.way_back = None;
        }
        begun
    }

    fn serving(&self) -> Serving {
        Serving {
            purpose: Purpose::Share,
            object: self.stamp.inode,
        }
    }

    /// Counts names that lead to it for good, unless they are undone.
    pub fn add_links(&mut self, names: usize) {
        self.links += u32::try_from(names).unwrap_or(0);
    }

    /// And those that are about to be undone.
    pub fn subtract_links(&mut self, names: usize) {
        self.links -= u32::try_from(names).unwrap_or(0);
    }

    /// Lets names that were exchanged for this object lead to `old` again, the file of `guests`.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn undo_names<'a>(
        &self,
        pending: Pending,
        old: &LeasedFile,
        guests: &[(GuestId, u32)],
        known: &'a Known<'a>,
        work: &'a WorkDirectory,
    ) -> Result<Option<StrayLinks<'a>>, UndoError> {
        let pair = Pair {
            work,
            old: old.as_fd(),
            new: self.file.as_fd(),
            links_without: self.links,
            guests: known.guests(guests),
            serving: self.serving(),
        };
        pending.undo(pair)
    }

    /// Relinks names that `guests` gave `old`, which this object has replaced, during the exchange. The kernel
    /// gives an inode without a name none again (`vfs_link`, fs/namei.c), so this ends.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn relink_strays(
        &self,
        old: &LeasedFile,
        guests: &[(GuestId, u32)],
        known: &Known<'_>,
        work: &WorkDirectory,
    ) -> Result<(), UndoError> {
        for _ in 0..MOST_WALKS {
            let old = Stamp::of(old.as_fd())?;
            if old.link_count == 0 {
                return Ok(());
            }
            for guest in known.guests(guests) {
                relink(work, guest, old.inode, self.file.as_fd(), self.serving())?;
            }
        }
        Err(UndoError::KeepsMoving)
    }

    /// Reports that a replacement by it could not be undone. It stays an object, so that the next run can do it.
    pub fn undo_failed(&mut self, error: UndoError, path: PathBuf, stats: &mut WorkerStats) {
        self.way_back = None;
        match error {
            UndoError::Failed(errno) => stats.failed(error.at(path), errno),
            UndoError::KeepsMoving | UndoError::Displaced(_) => stats.errors.push(error.at(path)),
        }
    }

    /// Its end, where `replaced` guests have it by replacements of this transaction, and a plan is worth its object
    /// where `fewest` have it.
    pub fn finish(
        mut self,
        replaced: Vec<(GuestId, u32)>,
        fewest: usize,
        store: &Store,
        target: &Target<'_>,
        stats: &mut WorkerStats,
    ) {
        let mut links = replaced;
        links.extend_from_slice(&self.guests);
        match self.way_back.take() {
            // All others fell out meanwhile: no second guest needs it.
            Some(way_back) if links.len() < fewest => {
                self.give_back(way_back, store, target, stats);
            }
            _ => self.keep(links, store, stats),
        }
    }

    /// A process opened it for writing before it was protected: nothing may link it from now on.
    pub fn withdraw(mut self, store: &Store, target: &Target<'_>, stats: &mut WorkerStats) {
        if let Some(way_back) = self.way_back.take() {
            stats.skipped.add(Skip::OpenForWriting, 1);
            self.give_back(way_back, store, target, stats);
        } else {
            let reason = "a process writes to this shared file; run `vhashify verify --deep`";
            stats.errors.push(FileError {
                path: store.path_of(&self.name),
                reason: reason.to_owned(),
            });
        }
    }

    /// Records for the index what is linked now, unless a process writes to it: then nothing proves its content
    /// any more.
    fn keep(self, guests: Vec<(GuestId, u32)>, store: &Store, stats: &mut WorkerStats) {
        if let Ok(stamp) = self.look_again() {
            stats.objects.push(Linked {
                name: self.name,
                stamp: index::settled(stamp),
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

    /// Makes it a file of its guest and of nobody else again.
    fn give_back(
        self,
        _way_back: WayBack,
        store: &Store,
        target: &Target<'_>,
        stats: &mut WorkerStats,
    ) {
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
