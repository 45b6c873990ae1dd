//! Replaces the names of one file of one guest by links to another inode, so that it can be
//! taken back until it is certain that nothing was lost.
//!
//! ```text
//!            link                exchange              unlink
//! N ─▶ old ───────▶ N ─▶ old ───────────▶ N ─▶ new ───────────▶ N ─▶ new
//!                   T ─▶ new              T ─▶ old
//!                                         │ a writer waits, or metadata changed:
//!                                         └─ exchange back, unlink T
//! ```
//!
//! Why `RENAME_EXCHANGE` and not a rename over the old file: a process that resolved `N` before
//! the rename and opens it for writing waits for our lease on the *old* inode. When we then give
//! the lease back it writes to that inode. Had the rename taken its last name, those writes would
//! be gone, and no call can give a name back to an inode without one. After an exchange the old
//! inode still has the name T, and is put back when anybody waits for it. The same exchange tells
//! whether `N` still was the old file at the instant of the replacement, and fails when the guest
//! removed `N`, where a rename would bring a deleted file back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::take_back::{MOST_WALKS, lead_back};
use crate::guest::Guest;
use crate::sys::beneath;
use crate::sys::fault::{self, Point};
use crate::unify::temporary::{self, Purpose};

/// One name that now leads to the new inode, while the temporary name keeps the old one.
#[derive(Debug)]
pub struct Exchanged {
    directory: Rc<OwnedFd>,
    name: Vec<u8>,
    temporary: Vec<u8>,
    new_inode: u64,
}

/// Why a name was not replaced. It leads to what it led to before, but for [`Refused::Stuck`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The name is gone, or leads to another file by now.
    Changed,
    /// The temporary name is taken.
    NameTaken,
    /// The new inode has no name left in its store.
    SourceGone,
    /// Link or exchange failed.
    Failed(&'static str, Errno),
    /// It could not be taken back: see [`Stuck`].
    Stuck(Stuck),
}

impl Refused {
    /// What could not be taken back, if anything.
    #[must_use]
    pub fn stuck(self) -> Option<Stuck> {
        match self {
            Self::Stuck(stuck) => Some(stuck),
            _ => None,
        }
    }
}

/// A replacement that could not be taken back: the name leads to the new inode, the old one waits
/// under the temporary name for the next run, which knows by the new inode being an object what
/// to do. So that object must stay one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck(pub Errno);

impl Exchanged {
    /// Puts a link to the inode behind `new` in the place of `name` of `guest`, if that leads to
    /// `old_inode`.
    ///
    /// # Errors
    /// [`Refused`]; nothing is changed then.
    pub fn new(
        guest: &Guest,
        directory: Rc<OwnedFd>,
        name: &[u8],
        purpose: Purpose,
        old_inode: u64,
        new: BorrowedFd<'_>,
        new_inode: u64,
    ) -> Result<Self, Refused> {
        let temporary = temporary::of(name, purpose);
        link(new, &directory, &temporary)?;
        let this = Self {
            directory,
            name: name.to_vec(),
            temporary,
            new_inode,
        };
        match this.exchange(Point::Exchange) {
            Ok(()) => {}
            Err(errno) => {
                this.forget_temporary();
                return Err(match errno {
                    Errno::NOENT => Refused::Changed,
                    _ => Refused::Failed("renameat2", errno),
                });
            }
        }
        match beneath::inode_of(this.directory.as_fd(), &this.temporary) {
            Ok(inode) if inode == old_inode => Ok(this),
            // The guest put another file there in the last microseconds: that one belongs there.
            _ => Err(match this.undo() {
                Ok(None) => Refused::Changed,
                // And has moved our link meanwhile, so that its own file has no other name.
                Ok(Some(moved)) => match moved.put_back_displaced(guest, purpose) {
                    Ok(()) => Refused::Changed,
                    Err(stuck) => Refused::Stuck(stuck),
                },
                Err(stuck) => Refused::Stuck(stuck),
            }),
        }
    }

    /// Makes it final: the old inode loses its temporary name.
    ///
    /// # Errors
    /// What `unlinkat(2)` lists. The replacement stands all the same; the next run tidies up.
    pub fn finish(self) -> Result<(), Errno> {
        match self.unlink_temporary(Point::TemporaryUnlink) {
            // The guest removed a name that it did not know.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Takes it back: `name` leads to the old inode again. Where the guest has replaced, moved or
    /// removed the name meanwhile, it comes back from here, still with the temporary name, which may
    /// be the last one of the old inode.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn undo(self) -> Result<Option<Self>, Stuck> {
        let inode_of = |name: &[u8]| beneath::inode_of(self.directory.as_fd(), name).ok();
        // Only our own link may be taken away from the name.
        if inode_of(&self.name) != Some(self.new_inode) {
            return Ok(Some(self));
        }
        match self.exchange(Point::UndoExchange) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Some(self)),
            // The old inode must keep the one name it has.
            Err(errno) => return Err(Stuck(errno)),
        }
        // Between the look and the exchange the guest may have put a newer file there, which then
        // stands behind the temporary name: back with it.
        if inode_of(&self.temporary) != Some(self.new_inode) {
            self.exchange(Point::UndoExchange).map_err(Stuck)?;
            return Ok(Some(self));
        }
        self.forget();
        Ok(None)
    }

    /// The temporary name leads to a file of the guest that stood where our link was put, and the
    /// guest has moved that link: wherever it is now, the file belongs there.
    fn put_back_displaced(self, guest: &Guest, purpose: Purpose) -> Result<(), Stuck> {
        let displaced = beneath::open_any(self.directory.as_fd(), &self.temporary);
        let displaced = displaced.map_err(Stuck)?;
        for _ in 0..MOST_WALKS {
            if lead_back(guest, self.new_inode, displaced.as_fd(), purpose)? {
                break;
            }
            // Missed because it is moved all the time; or the guest has removed it, and with it
            // what it took for its file.
            std::thread::sleep(Duration::from_millis(1));
        }
        self.forget();
        Ok(())
    }

    /// Removes the temporary name, whatever it leads to.
    pub fn forget(self) {
        self.forget_temporary();
    }

    fn exchange(&self, point: Point) -> Result<(), Errno> {
        fault::at(point, || {
            rustix::fs::renameat_with(
                &*self.directory,
                &*self.temporary,
                &*self.directory,
                &*self.name,
                RenameFlags::EXCHANGE,
            )
        })
    }

    fn unlink_temporary(&self, point: Point) -> Result<(), Errno> {
        fault::at(point, || {
            rustix::fs::unlinkat(&*self.directory, &*self.temporary, AtFlags::empty())
        })
    }

    fn forget_temporary(&self) {
        // A name that stays is found and removed by the next run.
        if let Err(errno) = self.unlink_temporary(Point::UndoUnlink) {
            tracing::debug!(%errno, "a temporary name stays until the next run");
        }
    }
}

/// Gives the inode behind `file` the name `name`, by descriptor, so that it is that very inode.
fn link(file: BorrowedFd<'_>, directory: &OwnedFd, name: &[u8]) -> Result<(), Refused> {
    let linked = fault::at(Point::TemporaryLink, || {
        rustix::fs::linkat(file, c"", directory, name, AtFlags::EMPTY_PATH)
    });
    linked.map_err(|errno| match errno {
        Errno::EXIST => Refused::NameTaken,
        // An inode whose last name was removed cannot get one again (`vfs_link`, fs/namei.c).
        Errno::NOENT => Refused::SourceGone,
        _ => Refused::Failed("linkat", errno),
    })
}
