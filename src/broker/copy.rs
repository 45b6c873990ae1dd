//! The private copy that a break puts in the place of an object.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::flush;
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::Stamp;

use super::link_group::Placed;
use crate::relink::copy_mark;
use crate::relink::directory_times::DirectoryTimes;
use crate::relink::private_copy::private_copy;
use crate::relink::swap::{FileSwap, Pending, Refused};
use crate::relink::temporary::{Purpose, Serving};
use crate::relink::work_directory::WorkDirectory;

/// A private copy that is to take the place of an object.
#[derive(Debug)]
pub struct PrivateCopy {
    /// The copy, open for reading.
    pub file: OwnedFd,
    /// `None` for the copy of an interrupted break, which the guest may write to.
    pub lease: Option<LeasedFile>,
}

impl PrivateCopy {
    /// Copies the object, whose number is `inode`, marks the copy and brings its bytes to the disk. `None` where the
    /// break must begin again.
    ///
    /// # Errors
    /// The call that failed.
    pub fn make(
        object: &LeasedFile,
        stamp: &Stamp,
        directory: BorrowedFd<'_>,
        inode: u64,
    ) -> Result<Option<Self>, FailedCall> {
        let copy = match private_copy(object, stamp, directory) {
            Ok(copy) => copy,
            // A child of this process has it open between fork and exec.
            Err(FailedCall {
                errno: Errno::AGAIN,
                ..
            }) => return Ok(None),
            Err(failed) => return Err(failed),
        };
        copy_mark::mark(&copy, inode).map_err(FailedCall::of("fsetxattr"))?;
        fault::at(Point::CopySync, || flush::settle(&copy))
            .map_err(FailedCall::of("sync_file_range"))?;
        let file = copy.as_fd().try_clone_to_owned();
        Ok(Some(Self {
            file: file.map_err(|error| FailedCall::from(("dup", error)))?,
            lease: Some(copy),
        }))
    }

    /// Exchanges the names of `object` at all `places` for names of the copy, whose number is `inode`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn swap(
        &self,
        inode: u64,
        object: u64,
        places: &[Placed],
        work: &WorkDirectory,
        times: &DirectoryTimes,
    ) -> Result<Pending, Refused> {
        let swap = FileSwap {
            work,
            serving: Serving {
                purpose: Purpose::Own,
                object,
            },
            old: object,
            new: self.file.as_fd(),
            new_inode: inode,
        };
        let names = places.iter().map(|Placed { directory, name }| {
            // The first name in a directory stands for it.
            let first = places
                .iter()
                .position(|other| other.name.directory == name.directory);
            let number = first.and_then(|at| u32::try_from(at).ok());
            times.begin(number.unwrap_or(0), directory.as_fd());
            Ok((Rc::clone(directory), name.name.as_slice()))
        });
        swap.begin(names, || {})
    }

    /// Makes the exchanges final. The object has other names, and nobody can change it.
    pub fn finish(&self, pending: Pending) {
        // Where the mark stays, so do the temporary names: the next break or run goes on with both.
        if copy_mark::unmark(&self.file).is_err() {
            return;
        }
        if let Err(errno) = pending.confirm().finish() {
            // It leads to the object, and the next run removes it.
            tracing::debug!(%errno, "a temporary name stays until the next run");
        }
    }
}
