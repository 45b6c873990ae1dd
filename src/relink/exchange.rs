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
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::resolve;
use vhashify_sys::shown::Shown;

use crate::outcome::FileError;
use crate::relink::temporary::{self, Purpose};

/// One name that now leads to the new inode, while the temporary name keeps what it led to.
#[derive(Debug)]
pub struct Exchanged {
    directory: Rc<OwnedFd>,
    name: Vec<u8>,
    temporary: Vec<u8>,
    new_inode: u64,
    /// The inode behind the temporary name.
    held: u64,
}

/// Why a name was not replaced. It leads to what it led to before.
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
}

/// A replacement that could not be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// The name leads to the new inode, the old one waits under the temporary name for the next
    /// run, which knows by the new inode being an object what to do. So that object must stay one.
    Failed(Errno),
    /// The guest moves the name on and on.
    Restless,
    /// A file that the guest moved to the name in the instant of the replacement, and whose place it
    /// moved on again. It has this name in the same directory now.
    Misplaced(Vec<u8>),
}

impl Stuck {
    /// As what happened to the file at `path`.
    #[must_use]
    pub fn at(self, path: PathBuf) -> FileError {
        let reason = match self {
            Self::Failed(errno) => return FileError::call("renameat2", path, &errno.into()),
            Self::Restless => {
                "its names are moved all the time; run it again when the guest is quiet".to_owned()
            }
            Self::Misplaced(name) => format!(
                "the guest moved files while this one was replaced, and one of them has lost its \
                 place; it is {} in the same directory, move it to where it belongs",
                Shown::bytes(name)
            ),
        };
        FileError { path, reason }
    }
}

impl From<Errno> for Stuck {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

impl Exchanged {
    /// Puts a link to the inode behind `new` in the place of `name`.
    ///
    /// What stood there in that instant is behind the temporary name now. It is for the caller to
    /// look whether that [is][Self::holds] the file that was meant, and to take the exchange back
    /// ([`take_back`](super::undo::take_back)) where it is not.
    ///
    /// # Errors
    /// [`Refused`]; nothing is changed then.
    pub fn new(
        directory: Rc<OwnedFd>,
        name: &[u8],
        purpose: Purpose,
        new: BorrowedFd<'_>,
        new_inode: u64,
    ) -> Result<Self, Refused> {
        let temporary = temporary::of(name, purpose);
        link(new, &directory, &temporary)?;
        let mut this = Self {
            directory,
            name: name.to_vec(),
            temporary,
            new_inode,
            held: new_inode,
        };
        match this.exchange(Point::Exchange) {
            Ok(()) => {}
            Err(errno) => {
                this.forget();
                return Err(match errno {
                    Errno::NOENT => Refused::Changed,
                    _ => Refused::Failed("renameat2", errno),
                });
            }
        }
        // Zero is no inode's number, so that what cannot be looked at is not what was meant.
        this.held = this.inode_of(&this.temporary).unwrap_or(0);
        Ok(this)
    }

    /// Whether `inode` stood in the place of the name, and not another that the guest put there in
    /// the last microseconds.
    #[must_use]
    pub fn holds(&self, inode: u64) -> bool {
        self.held == inode
    }

    /// What is behind the temporary name, as a place and not for reading: it may be anything.
    ///
    /// # Errors
    /// What `openat2(2)` lists.
    pub fn open_held(&self) -> Result<OwnedFd, Errno> {
        resolve::open_any(self.directory.as_fd(), &self.temporary)
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

    /// Takes it back: `name` leads to what it led to before. Where the guest has replaced, moved or
    /// removed the name meanwhile, it comes back from here, still with the temporary name, which may
    /// be the last one of what it holds.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn undo(self) -> Result<Option<Self>, Stuck> {
        let (directory, name) = (Rc::clone(&self.directory), self.name.clone());
        self.swap_with(&directory, &name)
    }

    /// Puts what it holds in the place of `name` of `directory`, if that leads to the new inode, and
    /// is done with then; comes back from here where it does not.
    ///
    /// # Errors
    /// [`Stuck`].
    pub fn swap_with(self, directory: &OwnedFd, name: &[u8]) -> Result<Option<Self>, Stuck> {
        let is_at_place = |inode| resolve::inode_of(directory.as_fd(), name) == Ok(inode);
        let exchange = || {
            fault::at(Point::UndoExchange, || {
                exchange(&self.directory, &self.temporary, directory, name)
            })
        };
        // Only our own link may be taken away.
        if !is_at_place(self.new_inode) {
            return Ok(Some(self));
        }
        match exchange() {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Some(self)),
            Err(errno) => return Err(errno.into()),
        }
        if self.inode_of(&self.temporary) == Ok(self.new_inode) {
            self.forget();
            return Ok(None);
        }
        // Between the look and the exchange the guest has put something newer there, which stands
        // behind the temporary name now: back with it.
        if is_at_place(self.held) {
            exchange()?;
        }
        if self.inode_of(&self.temporary) == Ok(self.held) {
            return Ok(Some(self));
        }
        Err(self.keep())
    }

    /// Gives what it holds a name of its own, because nobody can tell where it belongs.
    #[must_use]
    pub fn keep(self) -> Stuck {
        keep(&self.directory, &self.temporary)
    }

    /// Removes the temporary name, whatever it leads to.
    pub fn forget(self) {
        // A name that stays is found and removed by the next run.
        if let Err(errno) = self.unlink_temporary(Point::UndoUnlink) {
            tracing::debug!(%errno, "a temporary name stays until the next run");
        }
    }

    fn inode_of(&self, name: &[u8]) -> Result<u64, Errno> {
        resolve::inode_of(self.directory.as_fd(), name)
    }

    fn exchange(&self, point: Point) -> Result<(), Errno> {
        let directory = &*self.directory;
        fault::at(point, || {
            exchange(directory, &self.temporary, directory, &self.name)
        })
    }

    fn unlink_temporary(&self, point: Point) -> Result<(), Errno> {
        fault::at(point, || {
            rustix::fs::unlinkat(&*self.directory, &*self.temporary, AtFlags::empty())
        })
    }
}

/// Gives what is behind the temporary name a name that no run removes.
#[must_use]
pub fn keep(directory: &OwnedFd, temporary: &[u8]) -> Stuck {
    let kept = temporary::kept(temporary);
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(directory, temporary, directory, &*kept, flags) {
        Ok(()) => Stuck::Misplaced(kept),
        Err(errno) => Stuck::Failed(errno),
    }
}

/// Lets each of two names lead to what the other one led to, with no instant in between
/// (`RENAME_EXCHANGE`).
///
/// # Errors
/// What `rename(2)` lists; `ENOENT` when either name is gone.
pub fn exchange(
    directory: &OwnedFd,
    name: &[u8],
    other_directory: &OwnedFd,
    other: &[u8],
) -> Result<(), Errno> {
    let flags = RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(directory, name, other_directory, other, flags)
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
