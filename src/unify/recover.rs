//! Finishes or undoes what an interrupted run left.
//!
//! A temporary name T serves a name N of a guest ([`leftovers`](super::leftovers)), and tells whether N was about to be
//! shared or to get a private copy. A link group is replaced name by name, and may have been left half way, so that all
//! leftovers of one file are decided together:
//!
//! | T is for | T leads to | so | now |
//! | --- | --- | --- | --- |
//! | sharing | an object | N was not exchanged | unlink T |
//! | sharing | a file that has no other names | all of its names were exchanged | see below |
//! | sharing | a file that has other names, too | its link group was left half way | put it back everywhere |
//! | a copy | a private file | N was not exchanged | unlink T |
//! | a copy | an object | N was exchanged; other names of the object in this guest were not | give them the copy, too |
//!
//! A file all of whose names were exchanged may go if it still is what the object is. If a process wrote to it after the
//! run died, it goes back. The guest may have linked or moved its exchanged names since: what leads to the object in the
//! guest of a file that goes back is led to that file, too. Where the guest replaced or removed N since, that stands,
//! and T is unlinked: but only if it leads to an object's twin. It may lead to a file that the guest put in the place of
//! N in the instant of the exchange, and that has no other name: that one gets a name of its own and is reported.
//!
//! A copy goes forward and never back, because the guest may have written to it since.
//!
//! Where no guest of this run has the directory of N, T stays for a run that has it, unless it can go whatever N is.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::resolve;
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::Stamp;

use super::leftovers::{OpenLeftover, open_all};
use super::restored::{Restored, relink_names};
use crate::guest::Guest;
use crate::identity::{Digester, Identity, Mtime};
use crate::identity::{Leased, Proven, Unproven, look_again};
use crate::outcome::{FileError, Skip};
use crate::protect;
use crate::relink::copy_mark;
use crate::relink::exchange::{ExchangeError, UndoError, exchange, preserve};
use crate::relink::swap::{FileSwap, Refused};
use crate::relink::temporary::{Purpose, Serving};
use crate::relink::work_directory::{Leftovers, WorkDirectory};
use crate::scan::{GuestId, Scan};
use crate::store::{Announced, ObjectName};

/// Tidies up all temporary names that the walk of `guests` found in them, and those in the work directory (`left`).
///
/// It replaces names, which brokers have to know: so it asks that the run is announced.
///
/// Returns what could not be decided or done; nothing is lost then, and the next run tries again.
#[must_use]
pub fn recover(
    _announced: &Announced<'_>,
    work: &WorkDirectory,
    left: &Leftovers,
    guests: &[&Guest],
    scan: &Scan,
    listed: impl Iterator<Item = (u64, ObjectName)>,
) -> Vec<FileError> {
    let (objects, identities) = listed.map(|(inode, name)| (inode, name.identity)).unzip();
    let (opened, errors) = open_all(guests, scan, left);
    let mut recovery = Recovery {
        work,
        guests,
        scan,
        objects,
        identities,
        digester: Digester::default(),
        restored: Vec::new(),
        errors,
    };
    // Files of half-shared groups, and copies that are in place, each with all of its leftovers.
    let mut replaced: HashMap<u64, Vec<OpenLeftover>> = HashMap::new();
    let mut copied: HashMap<(GuestId, u64), Vec<OpenLeftover>> = HashMap::new();
    for leftover in opened {
        let inode = leftover.stamp.inode;
        match (leftover.purpose, recovery.objects.contains(&inode)) {
            (Purpose::Share, false) => replaced.entry(inode).or_default().push(leftover),
            (Purpose::Share, true) => recovery.unlink(&leftover),
            (Purpose::Own, false) => recovery.undo_copying(&leftover),
            (Purpose::Own, true) => match &leftover.place {
                Some(place) => copied
                    .entry((place.guest, inode))
                    .or_default()
                    .push(leftover),
                None => leave(&leftover),
            },
        }
    }
    for leftovers in replaced.values() {
        recovery.finish_sharing(leftovers);
    }
    for ((guest, object), leftovers) in &copied {
        recovery.finish_copying(*guest, *object, leftovers);
    }
    let left = relink_names(work, guests, &recovery.restored);
    recovery.errors.extend(left);
    recovery.errors
}

/// What needs a guest that is not part of this run stays.
fn leave(leftover: &OpenLeftover) {
    let path = Shown::path(&leftover.path);
    tracing::warn!(
        "{path} was left by an interrupted run and belongs to no guest of this one; run it with all guests"
    );
}

/// Why a step was not done.
#[derive(Debug, Error)]
enum RecoverError {
    #[error(transparent)]
    Failed(#[from] FailedCall),
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error("a process writes to this file of an interrupted run; run again later")]
    WriterWaits,
}

struct Recovery<'a> {
    work: &'a WorkDirectory,
    guests: &'a [&'a Guest],
    scan: &'a Scan,
    objects: HashSet<u64>,
    /// What is in the store.
    identities: HashSet<Identity>,
    digester: Digester,
    /// Files that were put back.
    restored: Vec<Restored>,
    errors: Vec<FileError>,
}

impl Recovery<'_> {
    /// Lets a file go whose names were all exchanged, or puts it back.
    fn finish_sharing(&mut self, leftovers: &[OpenLeftover]) {
        let names = leftovers.len() as u64;
        let is_whole = u64::from(leftovers[0].stamp.link_count) <= names;
        let mut is_same = is_whole;
        for leftover in leftovers {
            if !is_same {
                break;
            }
            match self.is_same_as_object(leftover) {
                Ok(same) => is_same = same,
                Err(error) => return self.failed(leftover, error),
            }
        }
        let leads_to_object = |one: &OpenLeftover| one.served_of(&self.objects).is_some();
        if is_whole && !is_same && !leftovers.iter().any(leads_to_object) {
            return self.preserve(leftovers);
        }
        if !is_same {
            self.note_restored(leftovers);
        }
        for leftover in leftovers {
            if is_same {
                self.unlink(leftover);
            } else if leftover.place.is_some() {
                self.put_back(leftover);
            } else {
                leave(leftover);
            }
        }
    }

    /// Opens a file that is about to be put back, while a name leads to it.
    fn note_restored(&mut self, leftovers: &[OpenLeftover]) {
        let mut seen = HashSet::new();
        for leftover in leftovers {
            let Some(place) = &leftover.place else {
                continue;
            };
            let of_name = || place.served.as_ref().map(|(_, inode)| *inode);
            let object = leftover.object.or_else(of_name);
            let object = object.filter(|object| self.objects.contains(object));
            let Some(object) = object.filter(|&object| seen.insert((place.guest, object))) else {
                continue;
            };
            match resolve::open_any(leftover.holder.as_fd(), &leftover.name) {
                Ok(file) => self.restored.push(Restored {
                    guest: place.guest,
                    purpose: Purpose::Share,
                    object,
                    file,
                    path: leftover.path.clone(),
                }),
                Err(errno) => self.failed(leftover, FailedCall::of("openat2")(errno).into()),
            }
        }
    }

    /// Gives a file whose place is unknown a name of its own.
    fn preserve(&mut self, leftovers: &[OpenLeftover]) {
        let placed = leftovers.iter().position(|one| one.place.is_some());
        let Some((at, place)) = placed.and_then(|at| Some((at, leftovers[at].place.as_ref()?)))
        else {
            return leave(&leftovers[0]);
        };
        let OpenLeftover {
            holder,
            name,
            lasting,
            ..
        } = &leftovers[at];
        if let Err(error) = let_in(&leftovers[at]) {
            return self.failed(&leftovers[at], error);
        }
        let stuck = preserve(holder, name, &place.directory, lasting.clone());
        let is_named = matches!(stuck, UndoError::Displaced(_));
        self.failed(&leftovers[at], stuck.into());
        // All names of one file: the others may go now.
        for (other, leftover) in leftovers.iter().enumerate() {
            if is_named && other != at {
                self.unlink(leftover);
            }
        }
    }

    /// Whether a file still is what the object that took its place is; or any object, where the guest
    /// has replaced or removed that name itself, so that there is nothing to put back.
    fn is_same_as_object(&mut self, leftover: &OpenLeftover) -> Result<bool, RecoverError> {
        let digester = &mut self.digester;
        let mut read = |directory: &OwnedFd, name: &[u8], mtime| {
            let file =
                resolve::open_file(directory.as_fd(), name).map_err(FailedCall::of("openat2"))?;
            Leased::new(file)?.prove(mtime, digester)
        };
        let failure = |unproven| match unproven {
            Unproven::Skipped(Skip::OpenForWriting) => Some(RecoverError::WriterWaits),
            Unproven::Failed(failed) => Some(failed.into()),
            // What the old file is now, no object can be.
            Unproven::Skipped(_) => None,
        };
        let Some((directory, served)) = leftover.served_of(&self.objects) else {
            for mtime in [Mtime::Kept, Mtime::Ignored] {
                match read(&leftover.holder, &leftover.name, mtime) {
                    Ok(found) if self.identities.contains(&found.identity) => return Ok(true),
                    Ok(_) => {}
                    Err(unproven) => return failure(unproven).map_or(Ok(false), Err),
                }
            }
            return Ok(false);
        };
        let object = match read(directory, served, Mtime::Kept) {
            Ok(object) => object,
            Err(unproven) => return failure(unproven).map_or(Ok(false), Err),
        };
        let old = match read(&leftover.holder, &leftover.name, Mtime::Kept) {
            Ok(old) => old,
            Err(unproven) => return failure(unproven).map_or(Ok(false), Err),
        };
        Ok(old.identity == object.identity && is_still_as_read(&old))
    }

    /// A copy that has not taken the place of its object goes. Whatever else has such a name stood in the
    /// place of the object in the instant of the exchange, and goes back there.
    fn undo_copying(&mut self, leftover: &OpenLeftover) {
        match self.try_undo_copying(leftover) {
            Ok(true) => self.unlink(leftover),
            Ok(false) => self.preserve(std::slice::from_ref(leftover)),
            Err(error) => self.failed(leftover, error),
        }
    }

    /// Whether what has the temporary name now may go: a copy, and not a file of the guest or a copy that
    /// it has written to.
    fn try_undo_copying(&self, leftover: &OpenLeftover) -> Result<bool, RecoverError> {
        let OpenLeftover { holder, name, .. } = leftover;
        if let Some(place) = &leftover.place
            && let Some((served, _)) = &place.served
            && copy_behind(holder, name)?.is_none()
            && copy_behind(&place.directory, served)?.is_some()
        {
            let back = || exchange(holder, name, &place.directory, served);
            fault::at(Point::RecoverExchange, back).map_err(FailedCall::of("renameat2"))?;
        }
        let copy = copy_behind(holder, name)?;
        let may_go = |(file, object): (OwnedFd, u64)| {
            // The guest may have written to it by another name, which keeps it.
            let has_other = Stamp::of(file.as_fd()).is_ok_and(|copy| copy.link_count > 1);
            has_other || self.is_unchanged(&file, object)
        };
        Ok(copy.is_some_and(may_go))
    }

    /// Whether nobody has written to a copy of an object.
    fn is_unchanged(&self, copy: &OwnedFd, object: u64) -> bool {
        let mut files = self.scan.files.iter();
        let object = files.find(|file| file.inode() == object);
        let copy = Stamp::of(copy.as_fd());
        // An object of which no guest has a name any more: then the guest has removed the file, too.
        object.is_none_or(|object| {
            copy.is_ok_and(|copy| (copy.size, copy.mtime) == (object.size(), object.mtime()))
        })
    }

    /// Gives the names of an object in a guest that have not got it yet the copy that others have.
    fn finish_copying(&mut self, guest: GuestId, object: u64, leftovers: &[OpenLeftover]) {
        for leftover in leftovers {
            let done = self.try_finish_copying(guest, object, leftover);
            if let Err(error) = done {
                return self.failed(leftover, error);
            }
        }
        for leftover in leftovers {
            self.unlink(leftover);
        }
    }

    /// Does so where the name that `leftover` serves leads to the copy. What the guest has put there
    /// instead is none.
    fn try_finish_copying(
        &mut self,
        guest: GuestId,
        object: u64,
        leftover: &OpenLeftover,
    ) -> Result<(), RecoverError> {
        let Some(place) = &leftover.place else {
            return Ok(());
        };
        let Some((served, inode)) = &place.served else {
            return Ok(());
        };
        match copy_behind(&place.directory, served)? {
            Some((file, origin)) if origin == object => {
                self.spread(guest, object, &file, *inode)?;
                copy_mark::unmark(&file).map_err(FailedCall::of("fremovexattr"))?;
                // The guest may have linked names of the object since the walk.
                self.restored.push(Restored {
                    guest,
                    purpose: Purpose::Own,
                    object,
                    file,
                    path: leftover.path.clone(),
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Replaces every name of `object` in the guest by a link to its copy, of inode number `inode`.
    fn spread(
        &self,
        guest: GuestId,
        object: u64,
        copy: &OwnedFd,
        inode: u64,
    ) -> Result<(), RecoverError> {
        let swap = FileSwap {
            work: self.work,
            serving: Serving {
                purpose: Purpose::Own,
                object,
            },
            old: object,
            new: copy.as_fd(),
            new_inode: inode,
        };
        let rest =
            self.scan.files.iter().filter(|file| {
                file.inode() == object && self.scan.guest_of(file.directory) == guest
            });
        for record in rest {
            let path = self.scan.directory_path(record.directory);
            let guest = self.guests[usize::from(guest)];
            let directory = resolve::open_directory(guest.root.as_fd(), &path)
                .map_err(FailedCall::of("openat2"))?;
            let name = self.scan.name_of(record);
            let directory = Rc::new(directory);
            match swap.begin([Ok((directory, name))], || {}) {
                Ok(pending) => {
                    let finished = pending.confirm().finish();
                    finished.map_err(FailedCall::of("unlinkat"))?;
                }
                // The guest has removed or replaced this name since it was scanned.
                Err(Refused {
                    why: ExchangeError::Changed,
                    pending,
                    ..
                }) => pending.put_back()?,
                Err(Refused {
                    why: ExchangeError::Failed(failed),
                    ..
                }) => return Err(failed.into()),
                Err(Refused { why, .. }) => {
                    return Err(FailedCall::of("linkat")(why.errno()).into());
                }
            }
        }
        Ok(())
    }

    fn put_back(&mut self, leftover: &OpenLeftover) {
        if let Some((directory, served)) = leftover.served_of(&self.objects) {
            if let Err(error) = let_in(leftover) {
                return self.failed(leftover, error);
            }
            let exchanged = fault::at(Point::RecoverExchange, || {
                exchange(&leftover.holder, &leftover.name, directory, served)
            });
            if let Err(errno) = exchanged {
                return self.failed(leftover, FailedCall::of("renameat2")(errno).into());
            }
        }
        self.unlink(leftover);
    }

    fn unlink(&mut self, leftover: &OpenLeftover) {
        let name = leftover.name.as_slice();
        let unlink = || rustix::fs::unlinkat(&*leftover.holder, name, AtFlags::empty());
        match fault::at(Point::RecoverUnlink, unlink) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => self.failed(leftover, FailedCall::of("unlinkat")(errno).into()),
        }
    }

    fn failed(&mut self, leftover: &OpenLeftover, error: RecoverError) {
        let path = leftover.path.clone();
        self.errors.push(match error {
            RecoverError::Failed(failed) => FileError::failed(failed, path),
            RecoverError::Undo(error) => error.at(path),
            RecoverError::WriterWaits => FileError {
                path,
                reason: error.to_string(),
            },
        });
    }
}

/// Lets processes change a file again that a run has displaced, before it gets a name.
fn let_in(leftover: &OpenLeftover) -> Result<(), RecoverError> {
    let file = match resolve::open_file(leftover.holder.as_fd(), &leftover.name) {
        Ok(file) => file,
        // Something that is no regular file, and was never displaced.
        Err(Errno::LOOP | Errno::NXIO) => return Ok(()),
        Err(errno) => return Err(FailedCall::of("openat2")(errno).into()),
    };
    Ok(protect::let_in(file.as_fd()).map_err(FailedCall::of("bpf"))?)
}

/// Whether a file that was read still is what it was then.
fn is_still_as_read(read: &Proven) -> bool {
    let Proven { leased, identity } = read;
    look_again(&leased.file, &leased.stamp, identity).is_ok()
}

/// The file behind a name, and the object that it is a copy of, if it is the copy of an interrupted
/// break.
fn copy_behind(directory: &OwnedFd, name: &[u8]) -> Result<Option<(OwnedFd, u64)>, RecoverError> {
    let file = match resolve::open_file(directory.as_fd(), name) {
        Ok(file) => file,
        // Gone, or something that is no regular file.
        Err(Errno::NOENT | Errno::LOOP | Errno::XDEV | Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(FailedCall::of("openat2")(errno).into()),
    };
    let object = copy_mark::of(file.as_fd()).map_err(FailedCall::of("fgetxattr"))?;
    Ok(object.map(|object| (file, object)))
}
