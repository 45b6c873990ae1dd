//! The private copy of a shared file.
//!
//! The copy is made in a file without a name (`O_TMPFILE`) on the guest's filesystem, so that an
//! interrupted copy leaves nothing behind, and gets every piece of metadata of the original but
//! the mark of iunlink. The caller gives it its names.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::{Stamp, set_mtime};
use vhashify_sys::{flags, tmpfile};
use xattr::FileExt;

use crate::identity::{self, Fingerprint, Mtime};

/// Why a copy could not be made: the system call and its error.
pub type CopyError = (&'static str, io::Error);

/// Copies a leased file into a new inode without a name, for `directory`'s filesystem.
///
/// Extents are shared where the filesystem can (`FICLONE`). The metadata are compared with the
/// original's before the copy is given out. It comes under a lease, so that whoever opens it for
/// writing, once it has names, waits until the caller is done with it.
///
/// # Errors
/// The system call that failed; a copy whose metadata came out different is `EIO`.
pub fn private_copy(
    original: &LeasedFile,
    stamp: &Stamp,
    directory: BorrowedFd<'_>,
) -> Result<LeasedFile, CopyError> {
    let create = || tmpfile::create(directory);
    let copy = fault::at(Point::CopyCreate, create).map_err(failed("open(O_TMPFILE)"))?;
    copy_content(original, stamp.size, &copy)?;
    copy_metadata(original, stamp, &copy)?;
    let fingerprint = |file: BorrowedFd<'_>| -> Result<Fingerprint, CopyError> {
        let stamp = Stamp::of(file).map_err(failed("statx"))?;
        identity::fingerprint(file, &stamp, Mtime::Kept)
    };
    if fingerprint(copy.as_fd())? != fingerprint(original.as_fd())? {
        return Err(("copying metadata", Errno::IO.into()));
    }
    lease(copy)
}

/// Leases the copy, for which no descriptor may be open for writing any more.
fn lease(copy: OwnedFd) -> Result<LeasedFile, CopyError> {
    let readable = tmpfile::open_again(&copy, OFlags::RDONLY).map_err(failed("open"))?;
    drop(copy);
    LeasedFile::acquire(readable).map_err(|refused| failed("fcntl(F_SETLEASE)")(refused.errno))
}

fn copy_content(original: &LeasedFile, size: u64, copy: &OwnedFd) -> Result<(), CopyError> {
    if fault::at(Point::CopyContent, || {
        rustix::fs::ioctl_ficlone(copy, original)
    })
    .is_ok()
    {
        return Ok(());
    }
    let (mut from, mut to) = (0_u64, 0_u64);
    while from < size {
        let rest = usize::try_from(size - from).unwrap_or(usize::MAX);
        let part =
            || rustix::fs::copy_file_range(original, Some(&mut from), copy, Some(&mut to), rest);
        match fault::at(Point::CopyContent, part) {
            // The lease keeps the file from becoming shorter.
            Ok(0) => return Err(("copy_file_range", Errno::IO.into())),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(("copy_file_range", errno.into())),
        }
    }
    Ok(())
}

fn copy_metadata(original: &LeasedFile, stamp: &Stamp, copy: &OwnedFd) -> Result<(), CopyError> {
    // In this order: a change of owner takes away set-user-ID bits and capabilities, a change of
    // mode changes the mask of an ACL, and all of them are older than the times.
    let (owner, group) = (Uid::from_raw(stamp.owner), Gid::from_raw(stamp.group));
    let change = || rustix::fs::fchown(copy, Some(owner), Some(group));
    fault::at(Point::CopyMetadata, change).map_err(failed("fchown"))?;
    let mode = Mode::from_raw_mode(u32::from(stamp.mode) & 0o7777);
    fault::at(Point::CopyMetadata, || rustix::fs::fchmod(copy, mode)).map_err(failed("fchmod"))?;

    let wanted = identity::extended_attributes(original.as_fd())?;
    let file = identity::Attributes(copy.as_fd());
    // A default ACL of the directory gave the copy one that the original does not have.
    for (name, _) in identity::extended_attributes(copy.as_fd())? {
        if !wanted.iter().any(|(wanted, _)| *wanted == name) {
            file.remove_xattr(&name)
                .map_err(|error| ("fremovexattr", error))?;
        }
    }
    for (name, value) in &wanted {
        if file
            .get_xattr(name)
            .map_err(|error| ("fgetxattr", error))?
            .as_ref()
            != Some(value)
        {
            fault::at(Point::CopyMetadata, || file.set_xattr(name, value))
                .map_err(|error| ("fsetxattr", error))?;
        }
    }
    flags::clear(copy.as_fd()).map_err(failed("ioctl(FS_IOC_SETFLAGS)"))?;
    let set = || set_mtime(copy.as_fd(), stamp.mtime.into());
    fault::at(Point::CopyMetadata, set).map_err(failed("futimens"))
}

/// Names the call that failed.
pub fn failed(call: &'static str) -> impl Fn(Errno) -> CopyError {
    move |errno| (call, errno.into())
}
