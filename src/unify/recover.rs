//! Finishes or undoes what an interrupted run left in a guest: one temporary name at a time.
//!
//! A temporary name T serves the name N of the same directory ([`temporary`]). What T and N lead
//! to tells how far the run had come:
//!
//! | T leads to | N leads to | so | now |
//! | --- | --- | --- | --- |
//! | an object | anything | the exchange had not happened, or the guest replaced N since | unlink T |
//! | a file | an object, same identity | the exchange had happened (or a private copy was not in place yet) | unlink T |
//! | a file | an object, other identity | a process wrote to the old file afterwards | exchange, unlink T |
//! | a file | a file, or nothing | the guest replaced or removed N since | unlink T |

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::prove::{Leased, Since, Unproven, since};
use super::temporary;
use crate::identity::Mtime;
use crate::report::Skip;
use crate::sys::beneath;

/// What became of a temporary name.
#[derive(Debug, PartialEq, Eq)]
pub enum Recovered {
    /// It is gone.
    Done,
    /// A process writes to the file; the next run decides.
    Later,
}

/// Tidies up the temporary name `leftover` in `directory`. `is_object` knows the store's inodes.
///
/// # Errors
/// The system call that failed, by name. Nothing is lost then; the next run tries again.
pub fn recover(
    directory: BorrowedFd<'_>,
    leftover: &[u8],
    is_object: impl Fn(u64) -> bool,
    buffer: &mut [u8],
) -> Result<Recovered, (&'static str, Errno)> {
    let unlink = || match rustix::fs::unlinkat(directory, leftover, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(Recovered::Done),
        Err(errno) => Err(("unlinkat", errno)),
    };
    let inode = match beneath::inode_of(directory, leftover) {
        Ok(inode) => inode,
        Err(Errno::NOENT) => return Ok(Recovered::Done),
        Err(errno) => return Err(("statx", errno)),
    };
    if is_object(inode) {
        return unlink();
    }
    let names = beneath::names(directory).map_err(|errno| ("getdents64", errno))?;
    let served = names
        .into_iter()
        .find(|name| temporary::of(name) == leftover);
    let Some(served) = served else {
        return unlink();
    };
    match beneath::inode_of(directory, &served) {
        Ok(inode) if is_object(inode) => {}
        Ok(_) | Err(Errno::NOENT) => return unlink(),
        Err(errno) => return Err(("statx", errno)),
    }
    // The exchange had happened. Has anybody written to the old file since?
    let mut read = |name: &[u8]| {
        let file = beneath::open_file(directory, name)
            .map_err(|errno| Unproven::Failed("openat2", errno.into()))?;
        Leased::new(file)?.prove(Mtime::Kept, buffer)
    };
    let (old, object) = match (read(leftover), read(&served)) {
        (Ok(old), Ok(object)) => (old, object),
        (Err(Unproven::Failed(call, error)), _) | (_, Err(Unproven::Failed(call, error))) => {
            return Err((call, Errno::from_io_error(&error).unwrap_or(Errno::IO)));
        }
        (Err(Unproven::Skipped(Skip::OpenForWriting)), _)
        | (_, Err(Unproven::Skipped(Skip::OpenForWriting))) => return Ok(Recovered::Later),
        // What the old file is now, no object can be: it goes back.
        _ => return put_back(directory, leftover, &served).map(|()| Recovered::Done),
    };
    let is_same =
        old.identity == object.identity && since(&old.leased.file, &old.identity) == Since::Same;
    if is_same {
        unlink()
    } else {
        put_back(directory, leftover, &served).map(|()| Recovered::Done)
    }
}

fn put_back(
    directory: BorrowedFd<'_>,
    leftover: &[u8],
    served: &[u8],
) -> Result<(), (&'static str, Errno)> {
    rustix::fs::renameat_with(
        directory,
        leftover,
        directory,
        served,
        RenameFlags::EXCHANGE,
    )
    .map_err(|errno| ("renameat2", errno))?;
    match rustix::fs::unlinkat(directory.as_fd(), leftover, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(("unlinkat", errno)),
    }
}
