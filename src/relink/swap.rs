//! Lets every name of one file lead to another inode: the one engine of runs, `deunify`, breaks and recovery.
//!
//! ```text
//! FileSwap::begin ─┬─▶ Pending ── settle ─┬─▶ Final ── finish: the displaced inode loses its last names
//!                  │                      └─▶ Pending, with the objection ─┐
//!                  └─▶ Refused, with Pending ─────────────────────────────┴─▶ undo: all names as before
//! ```
//!
//! [`Pending::settle`] makes a [`Final`] of a file that somebody may still change, and looks at the displaced inode as its
//! caller says; [`Pending::confirm`] of one that nobody can change. A value that is dropped in between is what a killed process leaves: the next run finishes or undoes it.
//!
//! # Why a settled replacement loses no change
//!
//! A process may have resolved a name to the displaced inode before the exchange, and be stopped for any time before it
//! changes it. It holds no lock then, and counts nowhere. What settles the replacement under the guard, in this order:
//!
//! 1. All names are exchanged. Whoever resolves one from now on finds the new inode.
//! 2. The displaced inode is marked as such ([`TurnsBack`]). Who comes for it after that, to open it for writing or to
//!    change its metadata, is told `ESTALE`, and the kernel resolves the name once more (`do_filp_open`,
//!    `retry_estale`; fs/namei.c, fs/open.c).
//! 3. A call that takes the inode's lock and changes nothing waits until a change of metadata is over that the guard has
//!    let through before that: the kernel asks under this lock.
//! 4. The lease is taken once more, which the kernel refuses while anybody counts as a writer. A writer counts first
//!    and asks the guard then; the mark was set first and the count is looked at now. So either the writer sees the mark
//!    or the holder of the lease sees the writer.
//! 5. Size, mtime and metadata are looked at: whoever was let through in step 1 or 2 has changed them by now.
//!
//! Where no guard is, steps 2 and 3 fall away, and the caller waits before it settles.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};

use super::exchange::{ExchangeError, Exchanged, UndoError};
use super::stray_links::StrayLinks;
use super::temporary::Serving;
use super::undo::{self, Pair};
use super::work_directory::{WorkDirectory, WorkPlace};
use crate::protect::TurnsBack;

/// A name that is to lead to another inode: its directory and the name.
pub type NameAt<'n> = (Rc<OwnedFd>, &'n [u8]);

/// What takes the place of what.
#[derive(Debug, Clone, Copy)]
pub struct FileSwap<'a> {
    /// Where temporary names lie.
    pub work: &'a WorkDirectory,
    /// What they say.
    pub serving: Serving,
    /// The inode number of the file whose names these are.
    pub old: u64,
    /// The inode that they are to lead to.
    pub new: BorrowedFd<'a>,
    /// Its number.
    pub new_inode: u64,
}

/// A file whose names were exchanged. Each of them is on the disk, and can be put back.
#[derive(Debug)]
#[must_use = "its temporary names stay otherwise"]
pub struct Pending {
    names: Vec<Exchanged>,
}

/// A swap that stopped at a name.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub why: ExchangeError,
    /// The position of that name.
    pub at: usize,
    /// What was exchanged so far, to be undone. The last name may have led to another file than was meant.
    pub pending: Pending,
}

/// A file whose names lead to the new inode for good.
#[derive(Debug)]
#[must_use = "its temporary names stay otherwise"]
pub struct Final {
    names: Vec<Exchanged>,
}

impl FileSwap<'_> {
    /// Exchanges each of `names`, which are all names of the file. Calls `after_each` when one leads to the new inode.
    ///
    /// # Errors
    /// [`Refused`] at the first name that cannot be exchanged or led to another file.
    pub fn begin<'n>(
        &self,
        names: impl IntoIterator<Item = Result<NameAt<'n>, ExchangeError>>,
        mut after_each: impl FnMut(),
    ) -> Result<Pending, Refused> {
        let names = names.into_iter();
        let mut exchanged = Vec::with_capacity(names.size_hint().0);
        for (at, name) in names.enumerate() {
            let why = match name.and_then(|(directory, name)| self.exchange(directory, name)) {
                Ok(done) => {
                    let is_meant = done.displaced_inode() == self.old;
                    exchanged.push(done);
                    after_each();
                    if is_meant {
                        continue;
                    }
                    ExchangeError::Changed
                }
                Err(why) => why,
            };
            return Err(Refused {
                why,
                at,
                pending: Pending { names: exchanged },
            });
        }
        Ok(Pending { names: exchanged })
    }

    fn exchange(&self, directory: Rc<OwnedFd>, name: &[u8]) -> Result<Exchanged, ExchangeError> {
        let Self {
            work,
            serving,
            new,
            new_inode,
            ..
        } = *self;
        Exchanged::new(work, directory, name, serving, new, new_inode)
    }
}

impl Pending {
    /// Count of its names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no name was exchanged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Its temporary names, in the order of the names.
    pub fn temporaries(&self) -> impl Iterator<Item = &WorkPlace> {
        self.names.iter().map(Exchanged::temporary)
    }

    /// Makes it final, unless `look` objects, which is given the count of its temporary names. Those who still come for
    /// the `displaced` inode are turned back before, by `guard`, and let in again where it objects.
    ///
    /// # Errors
    /// The objection, and the names to be undone.
    pub fn settle<O: From<Errno>>(
        self,
        displaced: BorrowedFd<'_>,
        guard: &(impl TurnsBack + ?Sized),
        look: impl FnOnce(usize) -> Result<(), O>,
    ) -> Result<Final, (O, Self)> {
        let is_turned_back = match guard.turn_back(displaced) {
            Ok(is_turned_back) => is_turned_back,
            Err(errno) => return Err((errno.into(), self)),
        };
        if is_turned_back {
            wait_for_metadata(displaced);
        }
        if let Err(objection) = look(self.names.len()) {
            if let Err(errno) = guard.let_in(displaced) {
                // The names go back all the same, and a process that cannot change its file is told.
                tracing::warn!(%errno, "a file that was put back refuses changes until its filesystem is mounted anew");
            }
            return Err((objection, self));
        }
        Ok(self.confirm())
    }

    /// Makes it final without a look at the displaced inode: one that no process can change, because it is an object, or
    /// that others have by other names.
    pub fn confirm(self) -> Final {
        let Self { names } = self;
        Final { names }
    }

    /// Lets all names lead to the old inode again: `undo::undo`.
    ///
    /// # Errors
    /// `UndoError`.
    pub fn undo<'g>(self, pair: Pair<'_, 'g>) -> Result<Option<StrayLinks<'g>>, UndoError> {
        undo::undo(self.names, pair)
    }

    /// Leaves all names as they are, as a killed command does, because a process writes to the new inode: it must lose
    /// none. Returns the temporary names, by which the next command goes on. A file that the guest put in the place of
    /// the `old` one in the instant of the exchange goes back.
    ///
    /// # Errors
    /// `UndoError` of that file.
    pub fn leave(mut self, old: u64) -> (Vec<WorkPlace>, Result<(), UndoError>) {
        let intruder = self.names.pop_if(|last| last.displaced_inode() != old);
        let left = self.temporaries().cloned().collect();
        (left, intruder.map_or(Ok(()), Exchanged::give_way))
    }

    /// Lets names lead where they led before, without looking for what a guest has moved or linked meanwhile.
    ///
    /// # Errors
    /// `UndoError`.
    pub fn put_back(self) -> Result<(), UndoError> {
        for name in self.names.into_iter().rev() {
            if let Some(moved) = name.undo()? {
                return Err(moved.preserve());
            }
        }
        Ok(())
    }
}

impl Final {
    /// Takes the displaced inode its temporary names.
    ///
    /// # Errors
    /// What `unlinkat(2)` lists: the replacement stands all the same, and the next run removes the names that stay.
    pub fn finish(self) -> Result<(), Errno> {
        let mut result = Ok(());
        for name in self.names {
            result = result.and(name.finish());
        }
        result
    }
}

/// Returns when no call that changes the file's metadata is under way that began before: those hold the inode's lock,
/// and so does this, which changes nothing (`vfs_removexattr`, fs/xattr.c).
fn wait_for_metadata(file: BorrowedFd<'_>) {
    if fault::is_omitted(Point::WaitForMetadata) {
        return;
    }
    // It fails, whatever the filesystem says: nobody sets this attribute.
    let _ = rustix::fs::fremovexattr(file.as_fd(), "user.vhashify.no-such-attribute");
}
