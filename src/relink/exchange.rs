//! Replaces one name of a guest by a link to another inode, and can take that back.
//!
//! ```text
//!            link                exchange              unlink
//! N ─▶ old ───────▶ N ─▶ old ───────────▶ N ─▶ new ───────────▶ N ─▶ new      N in the guest
//!                   T ─▶ new              T ─▶ old                            T in the work directory
//!                                         │ a writer waits, or metadata changed:
//!                                         └─ exchange back, unlink T
//! ```
//!
//! Why `RENAME_EXCHANGE` and not a rename over the old file:
//!
//! - A process that has resolved `N` before the rename, and opens it for writing, waits for our lease on the *old*
//!   inode. Once we give the lease back, it writes to that inode. A rename would have taken its last name, and the
//!   kernel gives an inode without a name none again: those writes would be gone. After an exchange the old inode
//!   has the name T, and we put it back while a writer waits.
//! - The exchange shows which inode `N` led to in the instant of the replacement.
//! - The exchange fails where the guest has removed `N`; a rename would bring the deleted file back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::directory::Directory;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::resolve;
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::Stamp;

use super::temporary::Serving;
use super::work_directory::{WorkDirectory, WorkPlace};
use crate::outcome::FileError;

/// One name that leads to the new inode, while its temporary name leads to the displaced one.
#[derive(Debug)]
pub struct Exchanged {
    directory: Rc<OwnedFd>,
    name: Vec<u8>,
    temporary: WorkPlace,
    new_inode: u64,
    displaced_inode: u64,
}

/// Why a name was not replaced. It leads to the same inode as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExchangeError {
    /// The guest has removed the name, or it leads to another file by now.
    #[error("the name leads to another file by now")]
    Changed,
    /// Its directory is append-only or immutable.
    #[error(
        "its directory is append-only or immutable (chattr -a, -i): no name in it can be replaced"
    )]
    DirectoryKeepsNames,
    /// A file has the temporary name already.
    #[error("its temporary name is taken")]
    NameTaken,
    /// The new inode has no name left in its store.
    #[error("the object has no name any more")]
    SourceGone,
    /// Somebody has removed the work directory meanwhile.
    #[error("somebody has removed the work directory beside the store meanwhile; run it again")]
    WorkDirectoryLost,
    /// Link or exchange failed.
    #[error(transparent)]
    Failed(#[from] FailedCall),
}

/// Why a replacement could not be undone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UndoError {
    /// The name leads to the new inode, and the old one waits under the temporary name for the next
    /// run. That run knows what to do by the new inode being an object, so that it must stay one.
    #[error("renameat2: {0}")]
    Failed(#[from] Errno),
    /// The guest moves the name each time before it is reached.
    #[error("its names are moved all the time; run it again when the guest is quiet")]
    KeepsMoving,
    /// The guest moved a file to the name in the instant of the replacement, and then moved that name on. The
    /// file has this name in the same directory now.
    #[error(
        "the guest moved files while this one was replaced, and one of them has lost its place; it is {} in the \
         same directory, move it to where it belongs",
        Shown::bytes(.0)
    )]
    Displaced(Vec<u8>),
}

impl ExchangeError {
    /// The nearest error of a system call.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Changed | Self::SourceGone | Self::WorkDirectoryLost => Errno::NOENT,
            Self::DirectoryKeepsNames => Errno::PERM,
            Self::NameTaken => Errno::EXIST,
            Self::Failed(failed) => failed.errno,
        }
    }
}

impl UndoError {
    /// The error of the file at `path`.
    #[must_use]
    pub fn at(self, path: PathBuf) -> FileError {
        match self {
            Self::Failed(errno) => FileError::call("renameat2", path, &errno.into()),
            Self::KeepsMoving | Self::Displaced(_) => FileError {
                path,
                reason: self.to_string(),
            },
        }
    }
}

impl Exchanged {
    /// Lets `name` lead to the inode behind `new`, and a temporary name to the inode that `name` led to.
    ///
    /// The guest may have put another file there in that instant. The caller compares
    /// [`displaced_inode`](Self::displaced_inode) with the inode that it meant, and undoes the exchange
    /// ([`undo`](super::undo::undo)) where they differ.
    ///
    /// # Errors
    /// [`ExchangeError`]; nothing is changed then, and the name has not led to the new inode for an instant.
    pub fn new(
        work: &WorkDirectory,
        directory: Rc<OwnedFd>,
        name: &[u8],
        serving: Serving,
        new: BorrowedFd<'_>,
        new_inode: u64,
    ) -> Result<Self, ExchangeError> {
        // Callers ask before they begin; the answer may be another one by now.
        let looked = Directory::look(directory.as_fd()).map_err(FailedCall::of("statx"))?;
        if looked.keeps_names {
            return Err(ExchangeError::DirectoryKeepsNames);
        }
        let temporary = work.place(serving, &looked, name)?;
        link(new, &temporary, work)?;
        let mut this = Self {
            directory,
            name: name.to_vec(),
            temporary,
            new_inode,
            displaced_inode: new_inode,
        };
        match this.exchange(Point::Exchange) {
            Ok(()) => {}
            // An error of the disk after the exchange: the temporary name leads to the displaced inode.
            Err(_) if this.inode_of_temporary() != Ok(this.new_inode) => {}
            Err(errno) => {
                let directory = Rc::clone(&this.directory);
                this.discard();
                let looked = || Directory::look(directory.as_fd());
                return Err(match errno {
                    Errno::NOENT => ExchangeError::Changed,
                    // Since the first look.
                    Errno::PERM if looked().is_ok_and(|now| now.keeps_names) => {
                        ExchangeError::DirectoryKeepsNames
                    }
                    _ => FailedCall::of("renameat2")(errno).into(),
                });
            }
        }
        // No inode has the number 0, so that an inode that cannot be looked at is never the one that was meant.
        this.displaced_inode = this.inode_of_temporary().unwrap_or(0);
        Ok(this)
    }

    /// The number of the inode that `name` led to in the instant of the exchange; 0 where it cannot be looked at.
    #[must_use]
    pub fn displaced_inode(&self) -> u64 {
        self.displaced_inode
    }

    /// Its temporary name.
    #[must_use]
    pub fn temporary(&self) -> &WorkPlace {
        &self.temporary
    }

    /// Opens the displaced inode, which may be of any type, with `O_PATH`.
    ///
    /// # Errors
    /// What `openat2(2)` lists.
    pub fn open_displaced(&self) -> Result<OwnedFd, Errno> {
        resolve::open_any(self.temporary.directory.as_fd(), self.temporary.bytes())
    }

    /// Makes it final: the displaced inode loses its temporary name.
    ///
    /// # Errors
    /// What `unlinkat(2)` lists. The replacement stands all the same; the next run removes the temporary name.
    pub fn finish(self) -> Result<(), Errno> {
        match self.unlink_temporary(Point::TemporaryUnlink) {
            // Another run has tidied up after a broker that it took for dead.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Lets `name` lead to the displaced inode again. Where the guest has replaced, moved or removed `name`
    /// meanwhile, it returns the exchange as it stands: its temporary name may be the last one of the
    /// displaced inode.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn undo(self) -> Result<Option<Self>, UndoError> {
        let (directory, name) = (Rc::clone(&self.directory), self.name.clone());
        self.swap_with(&directory, &name)
    }

    /// Lets `name` of `directory` lead to the displaced inode, if it leads to the new one, and removes the
    /// temporary name. Where `name` leads elsewhere, it returns the exchange as it stands.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn swap_with(self, directory: &OwnedFd, name: &[u8]) -> Result<Option<Self>, UndoError> {
        let is_at_place = |inode| resolve::inode_of(directory.as_fd(), name) == Ok(inode);
        let exchange = || {
            fault::at(Point::UndoExchange, || {
                exchange_with(&self.temporary, directory, name)
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
        if self.inode_of_temporary() == Ok(self.new_inode) {
            self.discard();
            return Ok(None);
        }
        // Between look and exchange the guest has put a newer file there. The temporary name leads to that one now:
        // back with it.
        if is_at_place(self.displaced_inode) {
            exchange()?;
        }
        if self.inode_of_temporary() == Ok(self.displaced_inode) {
            return Ok(Some(self));
        }
        Err(self.preserve())
    }

    /// Lets `name` lead to the displaced inode again, which the guest put there in the instant of the exchange, while a
    /// process writes to the new one: that loses no last name. Where it has no other, it gets a lasting one, and so does
    /// the displaced inode where the guest has moved on what `name` led to.
    ///
    /// # Errors
    /// [`UndoError`], with that lasting name.
    pub fn give_way(self) -> Result<(), UndoError> {
        let is_new_at_name =
            resolve::inode_of(self.directory.as_fd(), &self.name) == Ok(self.new_inode);
        if is_new_at_name {
            self.exchange(Point::UndoExchange)?;
        }
        let at = Stamp::at(self.temporary.directory.as_fd(), self.temporary.bytes())?;
        if at.inode == self.new_inode && at.link_count > 1 {
            self.discard();
            return Ok(());
        }
        Err(self.preserve())
    }

    /// Gives the displaced inode a lasting name in the place of its temporary one, because its place is unknown.
    /// Returns the error to report.
    #[must_use]
    pub fn preserve(self) -> UndoError {
        preserve_from(&self.temporary, &self.directory)
    }

    /// Removes the temporary name, whatever it leads to.
    pub fn discard(self) {
        // The next run finds and removes a name that stays.
        if let Err(errno) = self.unlink_temporary(Point::UndoUnlink) {
            tracing::debug!(%errno, "a temporary name stays until the next run");
        }
    }

    fn inode_of_temporary(&self) -> Result<u64, Errno> {
        resolve::inode_of(self.temporary.directory.as_fd(), self.temporary.bytes())
    }

    fn exchange(&self, point: Point) -> Result<(), Errno> {
        fault::at(point, || {
            exchange_with(&self.temporary, &self.directory, &self.name)
        })
    }

    fn unlink_temporary(&self, point: Point) -> Result<(), Errno> {
        let WorkPlace { directory, .. } = &self.temporary;
        fault::at(point, || {
            rustix::fs::unlinkat(directory, self.temporary.bytes(), AtFlags::empty())
        })
    }
}

/// Renames a temporary name of the work directory as [`preserve`] does.
#[must_use]
pub fn preserve_from(temporary: &WorkPlace, directory: &OwnedFd) -> UndoError {
    let lasting = temporary.name.lasting();
    preserve(&temporary.directory, temporary.bytes(), directory, lasting)
}

/// Renames a temporary name in `holder` to one in the guest's `directory` that no run removes. Returns the error to
/// report.
#[must_use]
pub fn preserve(
    holder: &OwnedFd,
    temporary: &[u8],
    directory: &OwnedFd,
    lasting: Vec<u8>,
) -> UndoError {
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(holder, temporary, directory, &*lasting, flags) {
        Ok(()) => UndoError::Displaced(lasting),
        Err(errno) => UndoError::Failed(errno),
    }
}

/// Exchanges a temporary name and `name` of a guest's `directory`.
///
/// # Errors
/// As [`exchange`].
pub fn exchange_with(temporary: &WorkPlace, directory: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    exchange(&temporary.directory, temporary.bytes(), directory, name)
}

/// Lets each of two names lead to the inode of the other one, in one step (`RENAME_EXCHANGE`).
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

/// Gives the inode behind `file` a temporary name; by descriptor, so that no other inode gets it.
fn link(
    file: BorrowedFd<'_>,
    place: &WorkPlace,
    work: &WorkDirectory,
) -> Result<(), ExchangeError> {
    let linked = fault::at(Point::TemporaryLink, || {
        let (directory, name) = (&place.directory, place.bytes());
        rustix::fs::linkat(file, c"", directory, name, AtFlags::EMPTY_PATH)
    });
    linked.map_err(|errno| match errno {
        Errno::EXIST => ExchangeError::NameTaken,
        Errno::NOENT if work.is_lost() => ExchangeError::WorkDirectoryLost,
        // An inode whose last name was removed cannot get one again (`vfs_link`, fs/namei.c).
        Errno::NOENT => ExchangeError::SourceGone,
        _ => FailedCall::of("linkat")(errno).into(),
    })
}
