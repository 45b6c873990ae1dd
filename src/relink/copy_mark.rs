//! Marks a private copy as one, from before its first exchange until all names lead to it.
//!
//! An interrupted break or `deunify` leaves names of the object behind. The run or break that goes on must distinguish
//! the copy, which the guest may have written to since, from a file that the guest has put there itself: the copy
//! belongs under all names of the object, the guest's file under none of them. So the copy carries the inode number of its object in an
//! extended attribute that a guest can neither see nor set without `CAP_SYS_ADMIN` on the host.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};

const ATTRIBUTE: &str = "trusted.vhashify.copy";

/// Marks `copy` as a copy of the object with the inode number `object`.
///
/// # Errors
/// What `fsetxattr(2)` lists.
pub fn mark(copy: impl AsFd, object: u64) -> Result<(), Errno> {
    fault::at(Point::CopyMetadata, || {
        rustix::fs::fsetxattr(&copy, ATTRIBUTE, &object.to_le_bytes(), XattrFlags::empty())
    })
}

/// Removes the mark, once all names lead to the copy.
///
/// # Errors
/// What `fremovexattr(2)` lists.
pub fn unmark(copy: impl AsFd) -> Result<(), Errno> {
    match fault::at(Point::CopyUnmark, || {
        rustix::fs::fremovexattr(&copy, ATTRIBUTE)
    }) {
        Err(Errno::NODATA) => Ok(()),
        done => done,
    }
}

/// The inode number of the object that `file` is marked as a copy of.
///
/// # Errors
/// What `fgetxattr(2)` lists.
pub fn of(file: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
    let mut number = [0; 8];
    match rustix::fs::fgetxattr(file, ATTRIBUTE, number.as_mut_slice()) {
        Ok(length) if length == number.len() => Ok(Some(u64::from_le_bytes(number))),
        // Only this program can write the attribute, and it writes no other length.
        Ok(_) | Err(Errno::NODATA | Errno::RANGE | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}
