//! Finds work directories of stores that are not there any more: of one that was made anew or restored from a backup, and has
//! another inode number now. No run looks into them, and a displaced file in one may be the last of its content.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::resolve;

use super::temporary::WorkName;
use super::work_directory::PREFIX;

/// The paths of those beside the store that is open as `store` in which a killed run or broker has left something.
///
/// # Errors
/// The call that failed.
pub fn orphans(store: BorrowedFd<'_>) -> Result<Vec<PathBuf>, FailedCall> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(store, c"..", flags, Mode::empty());
    let parent = parent.map_err(FailedCall::of("openat"))?;
    let names = resolve::names(parent.as_fd()).map_err(FailedCall::of("getdents64"))?;
    let numbered = |name: &'_ Vec<u8>| Some((store_of(name)?, name.clone()));
    let mut found: Vec<(u64, Vec<u8>)> = names.iter().filter_map(numbered).collect();
    found.retain(|(_, name)| has_leftovers(&parent, name));
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let inodes = names
        .iter()
        .map(|name| resolve::inode_of(parent.as_fd(), name));
    let inodes: HashSet<u64> = inodes.flatten().collect();
    let above = resolve::path_of(parent.as_fd()).map_err(FailedCall::of("readlink"))?;
    let above = PathBuf::from(OsString::from_vec(above));
    let orphans = found
        .into_iter()
        .filter(|(number, _)| !inodes.contains(number));
    let paths = orphans.map(|(_, name)| above.join(OsString::from_vec(name)));
    Ok(paths.collect())
}

/// The inode number of the store that a work directory is of, by its name.
fn store_of(name: &[u8]) -> Option<u64> {
    let number = name.strip_prefix(PREFIX.as_bytes())?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn has_leftovers(parent: &OwnedFd, name: &[u8]) -> bool {
    let names = |directory: &OwnedFd| resolve::names(directory.as_fd()).unwrap_or_default();
    let Ok(top) = resolve::open_directory(parent.as_fd(), name) else {
        return false;
    };
    names(&top).into_iter().any(|place| {
        let place = resolve::open_directory(top.as_fd(), &place);
        place.is_ok_and(|place| {
            names(&place)
                .iter()
                .any(|name| WorkName::parse(name).is_some())
        })
    })
}
