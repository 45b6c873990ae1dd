//! Finishes or removes what an interrupted run or break left beside a name of an object.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::flags::{self, Flags};
use vhashify_sys::resolve;

use crate::relink::copy_mark;
use crate::relink::exchange::{UndoError, exchange, preserve};
use crate::relink::temporary::{self, Purpose};

/// Undoes the replacement of `name` by the object, which a killed run has not made final: `temporary` leads to the
/// guest's own file. A file that no run can have left stays.
///
/// # Errors
/// `renameat2` or `unlinkat`.
pub fn put_back(
    directory: &OwnedFd,
    name: &[u8],
    temporary: &[u8],
    object: u64,
) -> Result<(), FailedCall> {
    let Ok(held) = resolve::open_file(directory.as_fd(), temporary) else {
        return Ok(());
    };
    match flags::read(held.as_fd()) {
        // The run has linked the object and not exchanged it yet.
        Ok(Flags::Marked) => return unlink(directory, temporary),
        Ok(Flags::Plain) => {}
        _ => return Ok(()),
    }
    let swap = || {
        fault::at(Point::RecoverExchange, || {
            exchange(directory, temporary, directory, name)
        })
        .map_err(FailedCall::of("renameat2"))
    };
    swap()?;
    if resolve::inode_of(directory.as_fd(), temporary) == Ok(object) {
        return unlink(directory, temporary);
    }
    // The guest has put a newer file there in that instant: back with it.
    swap()
}

/// The name that the temporary name `left` of a copy serves, if the guest still has it.
pub fn served_name(directory: &OwnedFd, left: &[u8]) -> Option<Vec<u8>> {
    let names = resolve::names(directory.as_fd()).ok()?;
    let mut names = names.into_iter();
    names.find(|served| temporary::of(served, Purpose::Own) == left)
}

/// Opens the copy that an interrupted break has put in the place of the name that `left` serves, whatever the
/// guest has written to it since. `None` for a file that the guest has put there instead.
pub fn interrupted_copy(directory: &OwnedFd, left: &[u8], object: u64) -> Option<OwnedFd> {
    let served = served_name(directory, left)?;
    let file = resolve::open_file(directory.as_fd(), &served).ok()?;
    (copy_mark::of(file.as_fd()) == Ok(Some(object))).then_some(file)
}

/// Removes the copy of a break that was interrupted before its exchange. Any other file of that temporary name is one
/// that the guest had put in the place of the object in the instant of the exchange. It has no other name, and gets a
/// lasting one.
///
/// # Errors
/// `renameat2` or `unlinkat`.
pub fn remove_copy(directory: &OwnedFd, temporary: &[u8], object: u64) -> Result<(), FailedCall> {
    let found = resolve::open_file(directory.as_fd(), temporary);
    if found.is_ok_and(|file| copy_mark::of(file.as_fd()) == Ok(Some(object))) {
        return unlink(directory, temporary);
    }
    match preserve(directory, temporary) {
        UndoError::Failed(errno) => Err(FailedCall::of("renameat2")(errno)),
        stuck => {
            tracing::warn!(
                ?stuck,
                "a file of a guest lost its place in an interrupted break"
            );
            Ok(())
        }
    }
}

/// Removes a temporary name. That the guest has removed it already is as good.
///
/// # Errors
/// `unlinkat`.
pub fn unlink(directory: &OwnedFd, name: &[u8]) -> Result<(), FailedCall> {
    let unlink = || rustix::fs::unlinkat(directory, name, AtFlags::empty());
    match fault::at(Point::RecoverUnlink, unlink) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(FailedCall::of("unlinkat")(errno)),
    }
}
