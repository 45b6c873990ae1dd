//! Whether a file that a call of a guest has come to is an object.
//!
//! It is told of a place (`O_PATH`), by the link count, which asks no more of the kernel than the inode, and then by
//! the mark, for which the file is opened.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use vhashify_sys::flags::{self, Flags};
use vhashify_sys::stamp::Stamp;
use vhashify_sys::tmpfile;

/// How a call has come to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By a name of the guest's.
    Name,
    /// By a descriptor that was opened before: the guest may have removed its name since.
    Descriptor,
}

/// An object that a call has come to, open for reading.
#[derive(Debug)]
pub struct Object {
    file: OwnedFd,
    stamp: Stamp,
}

impl Object {
    /// Its inode as it was seen.
    #[must_use]
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

impl AsFd for Object {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What can be told of a file at a glance.
#[derive(Debug)]
pub enum Glance {
    /// It is no object.
    Private,
    /// It is one.
    Object(Object),
    /// It takes longer to tell.
    Unsure,
}

impl Glance {
    /// Where the file could not be found or opened.
    #[must_use]
    pub fn failed(errno: Errno) -> Self {
        if is_lack(errno) || matches!(errno, Errno::AGAIN | Errno::INTR) {
            Self::Unsure
        } else {
            Self::Private
        }
    }
}

/// Opens for reading what is an object on the filesystem `device`, and `None` for anything else. `found` is a place.
///
/// # Errors
/// What keeps this process from opening it, as [`is_lack`] tells.
pub fn object(found: BorrowedFd<'_>, device: u64, by: By) -> Result<Option<Object>, Errno> {
    match look(found, device, by, OFlags::empty()) {
        Err(errno) if !is_lack(errno) => Ok(None),
        found => found,
    }
}

/// As [`object`], without waiting for whoever has a lease on the file.
#[must_use]
pub fn glance(found: BorrowedFd<'_>, device: u64, by: By) -> Glance {
    match look(found, device, by, OFlags::NONBLOCK) {
        Ok(Some(object)) => Glance::Object(object),
        Ok(None) => Glance::Private,
        Err(errno) => Glance::failed(errno),
    }
}

fn look(found: BorrowedFd<'_>, device: u64, by: By, more: OFlags) -> Result<Option<Object>, Errno> {
    // No server is asked for it.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let Ok(looked) = rustix::fs::statx(found, c"", flags, Stamp::MASK) else {
        return Ok(None);
    };
    let is_here = rustix::fs::makedev(looked.stx_dev_major, looked.stx_dev_minor) == device;
    let stamp = Stamp::from(looked);
    let least_links = match by {
        // An object has another one in the store.
        By::Name => 2,
        By::Descriptor => 0,
    };
    if !is_here || !stamp.is_regular() || stamp.link_count < least_links {
        return Ok(None);
    }
    // Regular it is for good: an inode does not change its type.
    let file = tmpfile::open_again(found, OFlags::RDONLY | OFlags::NOATIME | more)?;
    let is_marked = flags::read(file.as_fd()) == Ok(Flags::Marked);
    Ok(is_marked.then_some(Object { file, stamp }))
}

/// Whether a call failed for want of descriptors or memory, and not because of the file.
#[must_use]
pub fn is_lack(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}
