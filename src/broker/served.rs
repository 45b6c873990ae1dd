//! Names of an object that a run or another break works on at the moment, and directories that keep theirs.

use std::os::fd::AsFd;
use std::rc::Rc;

use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::directory::Directory;
use vhashify_sys::resolve;

use super::leftover;
use super::link_group::Placed;
use crate::guest::Guest;
use crate::relink::temporary::{Purpose, Serving};
use crate::relink::work_directory::{WorkDirectory, WorkPlace};

/// Whether a run or another break serves one of the names of the object `inode` at the moment: then this one waits.
/// Where that one was killed, as `is_left` says, it puts the name in order.
///
/// # Errors
/// The call that failed.
pub fn is_served(
    work: &WorkDirectory,
    guest: &Guest,
    place: &Placed,
    inode: u64,
    is_left: impl Fn() -> bool,
) -> Result<bool, FailedCall> {
    let Placed { directory, name } = place;
    let looked = Directory::look(directory.as_fd()).map_err(FailedCall::of("statx"))?;
    let serving = |purpose| Serving {
        purpose,
        object: inode,
    };
    let is_there = |at: &WorkPlace| resolve::inode_of(at.directory.as_fd(), at.bytes()).is_ok();
    let sharing = work.place_of_run(serving(Purpose::Share), &looked, &name.name)?;
    if is_there(&sharing) {
        if is_left() {
            leftover::put_back(work, guest, &sharing, directory, &name.name, inode)?;
        }
        return Ok(true);
    }
    let own = work.place_of_run(serving(Purpose::Own), &looked, &name.name)?;
    if is_there(&own) {
        if is_left() {
            leftover::remove_copy(&own, directory, inode)?;
        }
        return Ok(true);
    }
    // This broker's: of a break that failed before its exchange.
    let of_break = work.place(serving(Purpose::Own), &looked, &name.name)?;
    if is_there(&of_break) {
        if leftover::is_copy(&of_break, inode) {
            leftover::unlink(&of_break)?;
        }
        return Ok(true);
    }
    Ok(false)
}

/// Asks each directory once, before anything is made in any of them.
///
/// # Errors
/// `EPERM` for one that is append-only or immutable.
pub fn refuse_directories_that_keep_names(places: &[Placed]) -> Result<(), FailedCall> {
    // Names of one directory are neighbours and share its descriptor.
    for group in places.chunk_by(|one, next| Rc::ptr_eq(&one.directory, &next.directory)) {
        let looked = Directory::look(group[0].directory.as_fd());
        if looked.map_err(FailedCall::of("statx"))?.keeps_names {
            return Err(FailedCall::of("renameat2")(Errno::PERM));
        }
    }
    Ok(())
}
