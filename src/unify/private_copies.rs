//! Gives all names of an object in one guest a copy of it.
//!
//! Link groups stay groups: all names of one object in the guest are replaced by one copy, in the
//! same way and with the same care as a file is replaced by an object ([`crate::relink::exchange`]).
//!
//! The link count of an object does not tell how many of its names are this guest's. So the scan
//! is believed only where the object's ctime says that no name was added, moved or removed since
//! it began; otherwise a name that the scan did not see would be parted from its group.

use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::resolve;
use vhashify_sys::stamp::{Stamp, Timestamp};

use super::deunify_report::DeunifyReport;
use super::transaction::GRACE;
use crate::error::Error;
use crate::guest::Guest;
use crate::identity::{Leased, Unproven};
use crate::outcome::{FileError, Progress};
use crate::relink::copy_mark;
use crate::relink::directory_times::DirectoryTimes;
use crate::relink::exchange::{ExchangeError, UndoError};
use crate::relink::private_copy::private_copy;
use crate::relink::stray_links::StrayLinks;
use crate::relink::swap::{FileSwap, Pending, Refused};
use crate::relink::temporary::{Purpose, Serving};
use crate::relink::undo::Pair;
use crate::relink::work_directory::WorkDirectory;
use crate::scan::{FileRecord, Scan};
use crate::store::{Announced, Store};

/// Copies that are made before the filesystem is synchronised and they are put in place.
const BATCH: usize = 256;

const CHANGED: &str = "its names changed meanwhile; run it again";

/// A copy that has no name yet.
struct PendingCopy<'a> {
    names: &'a [FileRecord],
    object: LeasedFile,
    private: LeasedFile,
    inode: u64,
    /// The object when it was copied.
    copied: Stamp,
    /// The object's link count and ctime, which our own changes move on.
    as_left: (u32, Timestamp),
}

impl PendingCopy<'_> {
    fn serving(&self) -> Serving {
        Serving {
            purpose: Purpose::Own,
            object: self.names[0].inode(),
        }
    }

    /// Whether anybody changed a name of the object. Another guest's change counts, too: the inode does not
    /// tell whose it was.
    fn is_touched(&self) -> bool {
        is_touched(Stamp::of(self.object.as_fd()), self.as_left)
    }

    /// Whether its content may have changed since it was copied: a process counts as a writer, or has truncated it,
    /// which `open(O_RDONLY | O_TRUNC)` does past a read lease.
    fn is_written_to(&self) -> bool {
        let content = |stamp: Stamp| (stamp.size, stamp.mtime);
        !self.object.has_no_writer()
            || Stamp::of(self.object.as_fd()).map(content) != Ok(content(self.copied))
    }

    /// After a change of our own, which took `names` of the object. The count stays as we reckon it: a name
    /// that somebody made since the last look would be taken for part of our change.
    fn look_again(&mut self, names: u32) {
        if let Ok(stamp) = Stamp::of(self.object.as_fd()) {
            self.as_left = (self.as_left.0.saturating_sub(names), stamp.ctime);
        }
    }
}

/// Whether an object has another link count or ctime by now than it was left with.
fn is_touched(now: Result<Stamp, Errno>, as_left: (u32, Timestamp)) -> bool {
    now.map(|stamp| (stamp.link_count, stamp.ctime)) != Ok(as_left)
}

/// A copy that is in place, not final yet.
struct PlacedCopy<'a> {
    copy: PendingCopy<'a>,
    pending: Pending,
}

/// An object of which the guest should have no name any more.
struct Abandoned<'a> {
    file: &'a FileRecord,
    /// As of the [`PendingCopy`].
    as_left: (u32, Timestamp),
    strays: StrayLinks<'a>,
}

/// Gives copies to one guest.
pub struct Deunifier<'a> {
    work: &'a WorkDirectory,
    guest: &'a Guest,
    scan: &'a Scan,
    /// When the scan began.
    began: Timestamp,
    report: &'a mut DeunifyReport,
    directories: HashMap<u32, Rc<OwnedFd>>,
    times: DirectoryTimes,
    /// Objects of which the guest has no name any more, or should have none.
    abandoned: Vec<Abandoned<'a>>,
}

impl<'a> Deunifier<'a> {
    /// For files of `guest` that `scan` has found; it began at `began`. Names are replaced, which brokers have to know:
    /// so it asks that the run is announced.
    pub fn new(
        _announced: &'a Announced<'a>,
        work: &'a WorkDirectory,
        guest: &'a Guest,
        scan: &'a Scan,
        began: Timestamp,
        report: &'a mut DeunifyReport,
    ) -> Self {
        Self {
            work,
            guest,
            scan,
            began,
            report,
            directories: HashMap::new(),
            times: DirectoryTimes::new(work),
            abandoned: Vec::new(),
        }
    }

    /// Gives a copy to each of `groups`, which has all names of one object in the guest.
    ///
    /// # Errors
    /// What `syncfs(2)` lists.
    pub fn give_copies(
        mut self,
        store: &Store,
        groups: &[&'a [FileRecord]],
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        for batch in groups.chunks(BATCH) {
            let copies: Vec<_> = batch.iter().filter_map(|names| self.copy(names)).collect();
            store.synchronise()?;
            let placed: Vec<_> = copies
                .into_iter()
                .filter_map(|copy| self.put_in_place(copy))
                .collect();
            std::thread::sleep(GRACE);
            self.relink_strays();
            for placed in placed {
                progress.advance(placed.copy.names[0].size());
                self.finish(placed);
            }
            self.times.take_events();
            if self.times.is_full() {
                self.restore_times();
            }
        }
        if !self.abandoned.is_empty() {
            std::thread::sleep(GRACE);
            self.relink_strays();
        }
        self.restore_times();
        Ok(())
    }

    fn copy(&mut self, names: &'a [FileRecord]) -> Option<PendingCopy<'a>> {
        match self.try_copy(names) {
            Ok(copy) => Some(copy),
            Err(error) => {
                self.report.errors.push(error);
                None
            }
        }
    }

    fn try_copy(&mut self, names: &'a [FileRecord]) -> Result<PendingCopy<'a>, FileError> {
        let file = &names[0];
        let path = self.host_path(file);
        let failed = |failed| FileError::failed(failed, path.clone());
        let directory = self
            .directory(file.directory)
            .map_err(FailedCall::of("openat2"))
            .map_err(failed)?;
        let opened = resolve::open_file(directory.as_fd(), self.scan.name_of(file))
            .map_err(FailedCall::of("openat2"))
            .map_err(failed)?;
        let leased = Leased::new(opened).map_err(|unproven| match unproven {
            Unproven::Skipped(_) => FileError {
                path: path.clone(),
                reason: unproven.to_string(),
            },
            Unproven::Failed(call) => failed(call),
        })?;
        let is_as_found = leased.stamp.ctime.is_outside_since(self.began);
        if leased.stamp.inode != file.inode() || !is_as_found {
            let reason = CHANGED.to_owned();
            return Err(FileError { path, reason });
        }
        let copy = private_copy(&leased.file, &leased.stamp, directory.as_fd()).map_err(failed)?;
        copy_mark::mark(&copy, leased.stamp.inode)
            .map_err(FailedCall::of("fsetxattr"))
            .map_err(failed)?;
        let stamp = Stamp::of(copy.as_fd())
            .map_err(FailedCall::of("statx"))
            .map_err(failed)?;
        Ok(PendingCopy {
            names,
            object: leased.file,
            private: copy,
            inode: stamp.inode,
            copied: leased.stamp,
            as_left: (leased.stamp.link_count, leased.stamp.ctime),
        })
    }

    /// Exchanges every name of the object for one of its copy.
    fn put_in_place(&mut self, copy: PendingCopy<'a>) -> Option<PlacedCopy<'a>> {
        let (names, scan) = (copy.names, self.scan);
        let swap = FileSwap {
            work: self.work,
            serving: copy.serving(),
            old: names[0].inode(),
            new: copy.private.as_fd(),
            new_inode: copy.inode,
        };
        let as_left = Cell::new(copy.as_left);
        let object = || Stamp::of(copy.object.as_fd());
        let begun = swap.begin(
            names.iter().map(|file| {
                let directory = self.directory(file.directory);
                let directory = directory.map_err(|_| ExchangeError::Changed)?;
                if is_touched(object(), as_left.get()) {
                    return Err(ExchangeError::Changed);
                }
                self.times.begin(file.directory, directory.as_fd());
                Ok((directory, scan.name_of(file)))
            }),
            || {
                if let Ok(stamp) = object() {
                    as_left.set((as_left.get().0, stamp.ctime));
                }
            },
        );
        let as_left = as_left.get();
        match begun {
            Ok(pending) => Some(PlacedCopy {
                copy: PendingCopy { as_left, ..copy },
                pending,
            }),
            Err(Refused { why, at, pending }) => {
                let path = self.host_path(&names[at]);
                self.report.errors.push(match why {
                    ExchangeError::Failed(failed) => FileError::failed(failed, path),
                    ExchangeError::DirectoryKeepsNames | ExchangeError::WorkDirectoryLost => {
                        FileError {
                            path,
                            reason: why.to_string(),
                        }
                    }
                    _ => FileError {
                        path,
                        reason: CHANGED.to_owned(),
                    },
                });
                self.undo(&copy, pending);
                None
            }
        }
    }

    /// Makes it final, or undoes it where a process waits to write to the object: it resolved the name
    /// before the exchange. A process that waits to write to the copy resolved it afterwards, and what it
    /// writes must be found there.
    fn finish(&mut self, PlacedCopy { mut copy, pending }: PlacedCopy<'a>) {
        let objection = if copy.is_written_to() && copy.private.is_unbroken() {
            Some("a process writes to this shared file; run it again")
        } else {
            copy.is_touched().then_some(CHANGED)
        };
        if let Some(reason) = objection {
            self.undo(&copy, pending);
            let path = self.host_path(&copy.names[0]);
            let reason = reason.to_owned();
            self.report.errors.push(FileError { path, reason });
            return;
        }
        if let Err(errno) = copy_mark::unmark(&copy.private) {
            // As if interrupted: the next run tries again.
            let path = self.host_path(&copy.names[0]);
            let error = FileError::call("fremovexattr", path, &errno.into());
            return self.report.errors.push(error);
        }
        self.report.files_deunified += copy.names.len() as u64;
        self.report.bytes_copied += copy.names[0].size();
        if let Err(errno) = pending.confirm().finish() {
            let path = self.host_path(&copy.names[0]);
            let error = FileError::call("unlinkat", path, &errno.into());
            self.report.errors.push(error);
        }
        copy.look_again(u32::try_from(copy.names.len()).unwrap_or(0));
        self.abandon(&copy);
    }

    /// Abandons the object: the guest has the copy now.
    fn abandon(&mut self, copy: &PendingCopy<'a>) {
        let (object, private) = (copy.object.as_fd(), copy.private.as_fd());
        let strays = StrayLinks::new(self.work, object, private, vec![self.guest], copy.serving());
        let file = &copy.names[0];
        let relinked = strays.map_err(UndoError::from).and_then(|strays| {
            if copy.is_touched() {
                strays.relink()?;
            }
            self.abandoned.push(Abandoned {
                file,
                as_left: copy.as_left,
                strays,
            });
            Ok(())
        });
        if let Err(error) = relinked {
            self.report.errors.push(error.at(self.host_path(file)));
        }
    }

    /// Relinks names of abandoned objects: calls that were under way have made them.
    fn relink_strays(&mut self) {
        let mut abandoned = std::mem::take(&mut self.abandoned);
        abandoned.retain(|one| is_touched(one.strays.abandoned(), one.as_left));
        let strays: Vec<&StrayLinks<'_>> = abandoned.iter().map(|one| &one.strays).collect();
        for (which, error) in StrayLinks::relink_all(&strays) {
            let path = self.host_path(abandoned[which].file);
            self.report.errors.push(error.at(path));
        }
    }

    /// Unless a process waits to write to the copy: then it stays as if interrupted, and the next run or break gives it
    /// the other names of the object, too.
    fn undo(&mut self, copy: &PendingCopy<'_>, pending: Pending) {
        if !copy.private.has_no_writer() {
            let (_, given_way) = pending.leave(copy.names[0].inode());
            if let Err(error) = given_way {
                let error = error.at(self.host_path(&copy.names[0]));
                self.report.errors.push(error);
            }
            return;
        }
        let pair = Pair {
            work: self.work,
            old: copy.object.as_fd(),
            new: copy.private.as_fd(),
            links_without: 0,
            guests: vec![self.guest],
            serving: copy.serving(),
        };
        if let Err(error) = pending.undo(pair) {
            let error = error.at(self.host_path(&copy.names[0]));
            self.report.errors.push(error);
        }
    }

    fn host_path(&self, file: &FileRecord) -> PathBuf {
        self.guest.path_of(&self.scan.path_of(file))
    }

    fn open(&self, directory: u32) -> Result<OwnedFd, Errno> {
        let path = self.scan.directory_path(directory);
        resolve::open_directory(self.guest.root.as_fd(), &path)
    }

    fn restore_times(&mut self) {
        let times = std::mem::replace(&mut self.times, DirectoryTimes::new(self.work));
        let unwatched = times.restore(|directory| self.open(directory));
        if unwatched > 0 {
            tracing::warn!("{unwatched} directories have a new mtime: they could not be watched");
        }
    }

    fn directory(&mut self, directory: u32) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(open) = self.directories.get(&directory) {
            return Ok(Rc::clone(open));
        }
        let open = Rc::new(self.open(directory)?);
        if self.directories.len() >= BATCH {
            self.directories.clear();
        }
        self.directories.insert(directory, Rc::clone(&open));
        Ok(open)
    }
}
