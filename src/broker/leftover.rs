//! Finishes or removes the temporary name by which an interrupted run or break served a name of an object.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::flags::{self, Flags};
use vhashify_sys::resolve;

use crate::guest::Guest;
use crate::protect;
use crate::relink::copy_mark;
use crate::relink::exchange::{UndoError, exchange_with, preserve_from};
use crate::relink::stray_links::relink;
use crate::relink::temporary::{Purpose, Serving};
use crate::relink::work_directory::{WorkDirectory, WorkPlace};

/// Undoes the replacement of `name` by the object, which a killed run has not made final: `temporary` leads to the
/// guest's own file. A file that no run can have left stays.
///
/// # Errors
/// `renameat2` or `unlinkat`.
pub fn put_back(
    work: &WorkDirectory,
    guest: &Guest,
    temporary: &WorkPlace,
    directory: &OwnedFd,
    name: &[u8],
    object: u64,
) -> Result<(), FailedCall> {
    let Ok(held) = resolve::open_file(temporary.directory.as_fd(), temporary.bytes()) else {
        return Ok(());
    };
    match flags::read(held.as_fd()) {
        // The run has linked the object and not exchanged it yet.
        Ok(Flags::Marked) => return unlink(temporary),
        Ok(Flags::Plain) => {}
        _ => return Ok(()),
    }
    protect::let_in(held.as_fd()).map_err(FailedCall::of("bpf"))?;
    let swap = || {
        fault::at(Point::RecoverExchange, || {
            exchange_with(temporary, directory, name)
        })
        .map_err(FailedCall::of("renameat2"))
    };
    swap()?;
    if resolve::inode_of(temporary.directory.as_fd(), temporary.bytes()) == Ok(object) {
        unlink(temporary)?;
        // What the guest has linked or moved since is a name of the same file, and so are its other names that the run
        // had exchanged.
        let serving = Serving {
            purpose: Purpose::Share,
            object,
        };
        let relinked = relink(work, guest, object, held.as_fd(), serving);
        return relinked.map_err(|error| {
            tracing::warn!(%error, "names of a file could not be put back");
            FailedCall::of("renameat2")(Errno::BUSY)
        });
    }
    // The guest has put a newer file there in that instant: back with it.
    swap()
}

/// Removes the copy of a `deunify` that was interrupted before its exchange. Any other file of that temporary name is one
/// that the guest had put in the place of the object in the instant of the exchange. It has no other name, and gets a
/// lasting one in the guest's `directory`.
///
/// # Errors
/// `renameat2` or `unlinkat`.
pub fn remove_copy(
    temporary: &WorkPlace,
    directory: &OwnedFd,
    object: u64,
) -> Result<(), FailedCall> {
    if is_copy(temporary, object) {
        return unlink(temporary);
    }
    match preserve_from(temporary, directory) {
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

/// Whether a temporary name leads to a copy of this object.
#[must_use]
pub fn is_copy(temporary: &WorkPlace, object: u64) -> bool {
    let found = resolve::open_file(temporary.directory.as_fd(), temporary.bytes());
    found.is_ok_and(|file| copy_mark::of(file.as_fd()) == Ok(Some(object)))
}

/// Removes a temporary name. That it is gone already is as good.
///
/// # Errors
/// `unlinkat`.
pub fn unlink(temporary: &WorkPlace) -> Result<(), FailedCall> {
    let unlink = || rustix::fs::unlinkat(&temporary.directory, temporary.bytes(), AtFlags::empty());
    match fault::at(Point::RecoverUnlink, unlink) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(FailedCall::of("unlinkat")(errno)),
    }
}
