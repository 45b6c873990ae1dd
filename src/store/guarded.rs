//! Whether objects of a store were shared under the guard: guests that link them count on it.
//!
//! A run says so on the store's directory, for whoever starts a guest later, maybe under another kernel: the objects are
//! no less shared then, and nobody would refuse their changes.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use vhashify_sys::resolve;

use super::StoreLock;

const ATTRIBUTE: &str = "trusted.vhashify.guarded";

/// Says from now on that the store that is open as `directory` has objects that were shared under the guard.
///
/// # Errors
/// What `fsetxattr(2)` lists.
pub fn note_guarded(directory: BorrowedFd<'_>, _lock: &StoreLock) -> Result<(), Errno> {
    if is_noted(directory) {
        return Ok(());
    }
    rustix::fs::fsetxattr(directory, ATTRIBUTE, b"1", XattrFlags::empty())
}

fn is_noted(directory: BorrowedFd<'_>) -> bool {
    rustix::fs::fgetxattr(directory, ATTRIBUTE, &mut [0; 1]) == Ok(1)
}

/// Whether the store that is open as `directory` has objects, and they were shared under the guard. Where the attribute
/// cannot be read they were not: the guard is for filesystems that have attributes.
#[must_use]
pub fn counts_on_guard(directory: BorrowedFd<'_>) -> bool {
    is_noted(directory) && has_objects(directory)
}

/// Whether anything lies in a directory of the store, or in one further down.
fn has_objects(directory: BorrowedFd<'_>) -> bool {
    let Ok(names) = resolve::names(directory) else {
        // It cannot be read: nobody knows.
        return true;
    };
    names.into_iter().any(|name| {
        match resolve::open_directory(directory, &name) {
            Ok(below) => has_objects(below.as_fd()),
            // No directory: an object.
            Err(_) => true,
        }
    })
}
