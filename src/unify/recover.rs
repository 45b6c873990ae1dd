//! Finishes or undoes what an interrupted run left in the guests.
//!
//! A temporary name T serves the name N of the same directory ([`temporary`]), and tells whether N
//! was about to be shared or to get a private copy. A link group is replaced name by name, and may
//! have been left half way, so that all leftovers of one file are decided together:
//!
//! | T is for | T leads to | so | now |
//! | --- | --- | --- | --- |
//! | sharing | an object | N was not exchanged | unlink T |
//! | sharing | a file that has no other names | all of its names were exchanged | see below |
//! | sharing | a file that has other names, too | its link group was left half way | put it back everywhere |
//! | a copy | a private file | N was not exchanged | unlink T |
//! | a copy | an object | N was exchanged; other names of the object in this guest were not | give them the copy, too |
//!
//! A file all of whose names were exchanged is let go if it still is what the object is. If a
//! process wrote to it after the run died, it is put back. Where the guest replaced or removed N
//! since, that stands, and T is unlinked: but only if what it leads to is an object's twin. It may be
//! a file that the guest put in the place of N in the instant of the exchange, and that has no other
//! name: then it is kept under one of its own, and told.
//!
//! A copy goes forward and never back, because the guest may have written to it since.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::AtFlags;
use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;

use crate::guest::Guest;
use crate::identity::{Digester, Identity, Mtime};
use crate::identity::{Leased, Proven, Unproven, look_again};
use crate::outcome::{FileError, Skip};
use crate::relink::copy_mark;
use crate::relink::exchange::{ExchangeError, Exchanged, UndoError, exchange, preserve};
use crate::relink::temporary::{self, Purpose};
use crate::scan::{GuestId, Scan, join};
use crate::store::{Announced, ObjectName};

/// Tidies up all temporary names that `scan` found in `guests`.
///
/// It replaces names, which brokers have to know: so it asks that the run is announced.
///
/// Returns what could not be decided or done; nothing is lost then, and the next run tries again.
#[must_use]
pub fn recover(
    _announced: &Announced<'_>,
    guests: &[&Guest],
    scan: &Scan,
    listed: impl Iterator<Item = (u64, ObjectName)>,
) -> Vec<FileError> {
    let (objects, identities) = listed.map(|(inode, name)| (inode, name.identity)).unzip();
    let mut recovery = Recovery {
        guests,
        scan,
        objects,
        identities,
        digester: Digester::default(),
        errors: Vec::new(),
    };
    // Files of half-shared groups, and copies that are in place, each with all of its leftovers.
    let mut replaced: HashMap<(GuestId, u64), Vec<OpenLeftover>> = HashMap::new();
    let mut copied: HashMap<(GuestId, u64), Vec<OpenLeftover>> = HashMap::new();
    for found in &scan.leftovers {
        let Some((leftover, purpose)) = recovery.look(found.directory, &found.name) else {
            continue;
        };
        let is_object = recovery.objects.contains(&leftover.stamp.inode);
        let key = (leftover.guest, leftover.stamp.inode);
        match (purpose, is_object) {
            (Purpose::Share, false) => replaced.entry(key).or_default().push(leftover),
            (Purpose::Own, true) => copied.entry(key).or_default().push(leftover),
            (Purpose::Share, true) => recovery.unlink(&leftover),
            (Purpose::Own, false) => recovery.undo_copying(&leftover),
        }
    }
    for leftovers in replaced.values() {
        recovery.finish_sharing(leftovers);
    }
    for ((guest, object), leftovers) in &copied {
        recovery.finish_copying(*guest, *object, leftovers);
    }
    recovery.errors
}

/// A temporary name and what it leads to.
struct OpenLeftover {
    guest: GuestId,
    directory: Rc<OwnedFd>,
    name: Vec<u8>,
    path: PathBuf,
    stamp: Stamp,
    /// The name that it serves and its inode, unless that is gone.
    served: Option<(Vec<u8>, u64)>,
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
    guests: &'a [&'a Guest],
    scan: &'a Scan,
    objects: HashSet<u64>,
    /// What is in the store.
    identities: HashSet<Identity>,
    digester: Digester,
    errors: Vec<FileError>,
}

impl Recovery<'_> {
    fn look(&mut self, directory: u32, name: &[u8]) -> Option<(OpenLeftover, Purpose)> {
        let guest = self.scan.guest_of(directory);
        let path_below = self.scan.directory_path(directory);
        let root = self.guests[usize::from(guest)];
        let path = root.path_of(&join(&path_below, name));
        let purpose = temporary::purpose(name)?;
        let look = || -> Result<OpenLeftover, (&'static str, Errno)> {
            let directory = resolve::open_directory(root.root.as_fd(), &path_below)
                .map_err(|errno| ("openat2", errno))?;
            let stamp = Stamp::at(directory.as_fd(), name).map_err(|errno| ("statx", errno))?;
            let names = resolve::names(directory.as_fd()).map_err(|errno| ("getdents64", errno))?;
            let served = names
                .into_iter()
                .find(|served| temporary::of(served, purpose) == name);
            let served = served.and_then(|served| {
                let inode = resolve::inode_of(directory.as_fd(), &served).ok()?;
                Some((served, inode))
            });
            Ok(OpenLeftover {
                guest,
                directory: Rc::new(directory),
                name: name.to_vec(),
                path: path.clone(),
                stamp,
                served,
            })
        };
        match look() {
            Ok(leftover) => Some((leftover, purpose)),
            // The guest removed it.
            Err((_, Errno::NOENT)) => None,
            Err((call, errno)) => {
                self.errors.push(FileError::call(call, path, &errno.into()));
                None
            }
        }
    }

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
        let has_place = |leftover: &OpenLeftover| leftover.shared_name(&self.objects).is_some();
        if is_whole && !is_same && !leftovers.iter().any(has_place) {
            let stuck = preserve(&leftovers[0].directory, &leftovers[0].name);
            self.failed(&leftovers[0], stuck.into());
            // All names of one file: the others may go now.
            leftovers[1..].iter().for_each(|name| self.unlink(name));
            return;
        }
        for leftover in leftovers {
            if is_same {
                self.unlink(leftover);
            } else {
                self.put_back(leftover);
            }
        }
    }

    /// Whether a file still is what the object that took its place is; or any object, where the guest
    /// has replaced or removed that name itself, so that there is nothing to put back.
    fn is_same_as_object(&mut self, leftover: &OpenLeftover) -> Result<bool, RecoverError> {
        let digester = &mut self.digester;
        let mut read = |name: &[u8], mtime| {
            let file = resolve::open_file(leftover.directory.as_fd(), name)
                .map_err(FailedCall::of("openat2"))?;
            Leased::new(file)?.prove(mtime, digester)
        };
        let failure = |unproven| match unproven {
            Unproven::Skipped(Skip::OpenForWriting) => Some(RecoverError::WriterWaits),
            Unproven::Failed(failed) => Some(failed.into()),
            // What the old file is now, no object can be.
            Unproven::Skipped(_) => None,
        };
        let Some((served, _)) = leftover.shared_name(&self.objects) else {
            for mtime in [Mtime::Kept, Mtime::Ignored] {
                match read(&leftover.name, mtime) {
                    Ok(found) if self.identities.contains(&found.identity) => return Ok(true),
                    Ok(_) => {}
                    Err(unproven) => return failure(unproven).map_or(Ok(false), Err),
                }
            }
            return Ok(false);
        };
        let object = match read(served, Mtime::Kept) {
            Ok(object) => object,
            Err(unproven) => return failure(unproven).map_or(Ok(false), Err),
        };
        let old = match read(&leftover.name, Mtime::Kept) {
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
            Ok(false) => {
                let stuck = preserve(&leftover.directory, &leftover.name);
                self.failed(leftover, stuck.into());
            }
            Err(error) => self.failed(leftover, error),
        }
    }

    /// Whether what has the temporary name now may go: a copy, and not a file of the guest or a copy that
    /// it has written to.
    fn try_undo_copying(&self, leftover: &OpenLeftover) -> Result<bool, RecoverError> {
        let directory = &leftover.directory;
        let is_copy = |name: &[u8]| copy_behind(directory, name).map(|copy| copy.is_some());
        if let Some((served, _)) = &leftover.served
            && !is_copy(&leftover.name)?
            && is_copy(served)?
        {
            let back = || exchange(directory, &leftover.name, directory, served);
            fault::at(Point::RecoverExchange, back).map_err(FailedCall::of("renameat2"))?;
        }
        let copy = copy_behind(directory, &leftover.name)?;
        Ok(copy.is_some_and(|(file, object)| self.is_unchanged(&file, object)))
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
        &self,
        guest: GuestId,
        object: u64,
        leftover: &OpenLeftover,
    ) -> Result<(), RecoverError> {
        let Some((served, inode)) = &leftover.served else {
            return Ok(());
        };
        match copy_behind(&leftover.directory, served)? {
            Some((file, origin)) if origin == object => {
                self.spread(guest, object, &file, *inode)?;
                Ok(copy_mark::unmark(&file).map_err(FailedCall::of("fremovexattr"))?)
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
            match Exchanged::new(directory, name, Purpose::Own, copy.as_fd(), inode) {
                Ok(exchanged) if exchanged.displaced_inode() == object => {
                    let finished = exchanged.finish();
                    finished.map_err(FailedCall::of("unlinkat"))?;
                }
                Ok(exchanged) => {
                    if let Some(moved) = exchanged.undo()? {
                        return Err(moved.preserve().into());
                    }
                }
                // The guest has removed or replaced this name since it was scanned.
                Err(ExchangeError::Changed) => {}
                Err(ExchangeError::Failed(failed)) => return Err(failed.into()),
                Err(ExchangeError::DirectoryKeepsNames) => {
                    return Err(FailedCall::of("linkat")(Errno::PERM).into());
                }
                Err(ExchangeError::NameTaken | ExchangeError::SourceGone) => {
                    return Err(FailedCall::of("linkat")(Errno::EXIST).into());
                }
            }
        }
        Ok(())
    }

    fn put_back(&mut self, leftover: &OpenLeftover) {
        if let Some((served, _)) = leftover.shared_name(&self.objects) {
            let directory = &leftover.directory;
            let exchanged = fault::at(Point::RecoverExchange, || {
                exchange(directory, &leftover.name, directory, served)
            });
            if let Err(errno) = exchanged {
                return self.failed(leftover, FailedCall::of("renameat2")(errno).into());
            }
        }
        self.unlink(leftover);
    }

    fn unlink(&mut self, leftover: &OpenLeftover) {
        let name = leftover.name.as_slice();
        let unlink = || rustix::fs::unlinkat(&*leftover.directory, name, AtFlags::empty());
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

impl OpenLeftover {
    /// The name that it serves, if that leads to an object.
    fn shared_name(&self, objects: &HashSet<u64>) -> Option<(&[u8], u64)> {
        let (name, inode) = self.served.as_ref()?;
        objects.contains(inode).then_some((name.as_slice(), *inode))
    }
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
