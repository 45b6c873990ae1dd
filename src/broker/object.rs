//! Finds out whether the file of a call is an object.
//!
//! First the link count of an `O_PATH` descriptor, which is one `statx(2)`; only then opens the file to read the mark.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;
use vhashify_sys::flags::{self, Flags};
use vhashify_sys::stamp::Stamp;
use vhashify_sys::tmpfile;

/// How a call names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By one of the guest's names.
    Name,
    /// By a descriptor that was opened before: the guest may have removed the name since.
    Descriptor,
}

/// An object that a call names, open for reading.
#[derive(Debug)]
pub struct Object {
    file: OwnedFd,
    stamp: Stamp,
}

impl Object {
    /// Its inode as it was when the object was opened.
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

/// What is known of a file without waiting.
#[derive(Debug)]
pub enum Classification {
    /// It is no object.
    Private,
    /// It is one.
    Object(Object),
    /// Finding out needs a disk, a server, or the end of somebody's lease; or it has failed.
    WouldBlock,
}

/// Opens the object behind `found`, an `O_PATH` descriptor, for reading. `None` for any other file, and for one on
/// another filesystem than `device`.
///
/// # Errors
/// Nobody can tell: a regular file of this filesystem cannot be opened, or its mark cannot be read.
pub fn open_object(found: BorrowedFd<'_>, device: u64, by: By) -> Result<Option<Object>, Errno> {
    match look(found, device, by, OFlags::empty())? {
        Classification::Object(object) => Ok(Some(object)),
        _ => Ok(None),
    }
}

/// Does the same without waiting for the end of somebody's lease on the file.
#[must_use]
pub fn classify(found: BorrowedFd<'_>, device: u64, by: By) -> Classification {
    look(found, device, by, OFlags::NONBLOCK).unwrap_or(Classification::WouldBlock)
}

fn look(found: BorrowedFd<'_>, device: u64, by: By, more: OFlags) -> Result<Classification, Errno> {
    // A network filesystem does not ask its server.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let looked = rustix::fs::statx(found, c"", flags, Stamp::MASK)?;
    if rustix::fs::makedev(looked.stx_dev_major, looked.stx_dev_minor) != device {
        return Ok(Classification::Private);
    }
    let stamp = Stamp::from(looked);
    let least_links = match by {
        // An object has another one in the store.
        By::Name => 2,
        By::Descriptor => 0,
    };
    if !stamp.is_regular() || stamp.link_count < least_links {
        return Ok(Classification::Private);
    }
    // Opening it has no side effects: it is a regular file, and an inode never changes its type.
    let reading = OFlags::RDONLY | more;
    let file = match tmpfile::open_again(found, reading | OFlags::NOATIME) {
        // The caller's mount does not show its owner.
        Err(Errno::PERM) => tmpfile::open_again(found, reading)?,
        opened => opened?,
    };
    match flags::read(file.as_fd()) {
        Ok(Flags::Marked) => Ok(Classification::Object(Object { file, stamp })),
        // The filesystem has no flags.
        Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(Classification::Private),
        Err(errno) => Err(errno),
    }
}
