//! Makes a private copy of a shared file.
//!
//! The copy is a file without a name (`O_TMPFILE`) on the guest's filesystem, so that an interrupted copy leaves
//! nothing behind. It gets all metadata of the original but the mark of iunlink. The caller gives it its names.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid, XattrFlags, fremovexattr, fsetxattr};
use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::placement::Placement;
use vhashify_sys::stamp::{Stamp, set_mtime};
use vhashify_sys::{flags, tmpfile, xattr};

use crate::identity::{self, Fingerprint, Mtime};

/// Copies a leased file into a new inode without a name, for `directory`'s filesystem.
///
/// The copy shares extents where the filesystem can (`FICLONE`). Its size and metadata are compared with the
/// original's before this returns. The copy is leased: a process that opens it for writing, once it has names, waits
/// until the caller ends the lease.
///
/// # Errors
/// The system call that failed; `EIO` for a copy whose size or metadata came out different.
pub fn private_copy(
    original: &LeasedFile,
    stamp: &Stamp,
    directory: BorrowedFd<'_>,
) -> Result<LeasedFile, FailedCall> {
    let create = || tmpfile::create(directory);
    let copy = fault::at(Point::CopyCreate, create).map_err(FailedCall::of("open(O_TMPFILE)"))?;
    let placement = copy_placement(original, &copy, directory)?;
    copy_content(original, stamp.size, &copy)?;
    copy_metadata(original, stamp, &copy)?;
    let look = |file: BorrowedFd<'_>| -> Result<(u64, Fingerprint), FailedCall> {
        let stamp = Stamp::of(file).map_err(FailedCall::of("statx"))?;
        let attributes = identity::extended_attributes(file)?;
        let print = identity::fingerprint_of(&stamp, &attributes, placement, Mtime::Kept);
        Ok((stamp.size, print))
    };
    // The original may have been truncated meanwhile, which `open(O_RDONLY | O_TRUNC)` does past a read lease.
    let (copied, now) = (look(copy.as_fd())?, look(original.as_fd())?);
    if copied != now || now.0 != stamp.size {
        return Err(FailedCall::of("copying metadata")(Errno::IO));
    }
    lease(copy)
}

/// Leases the copy. The lease needs that no descriptor is open for writing any more.
fn lease(copy: OwnedFd) -> Result<LeasedFile, FailedCall> {
    let readable = tmpfile::open_again(&copy, OFlags::RDONLY).map_err(FailedCall::of("open"))?;
    drop(copy);
    LeasedFile::acquire(readable)
        .map_err(|refused| FailedCall::of("fcntl(F_SETLEASE)")(refused.errno))
}

/// Before the content, because XFS takes hints of extents only while there are none. The copy may have inherited others
/// from its `directory`, whose project id it keeps where no file can have another.
fn copy_placement(
    original: &LeasedFile,
    copy: &OwnedFd,
    directory: BorrowedFd<'_>,
) -> Result<Placement, FailedCall> {
    let looked = FailedCall::of("ioctl(FS_IOC_FSGETXATTR)");
    let wanted = Placement::of(original.as_fd())
        .and_then(|placement| placement.allowed_in(directory))
        .map_err(looked)?;
    let given = wanted.give(copy.as_fd());
    given.map_err(FailedCall::of("ioctl(FS_IOC_FSSETXATTR)"))?;
    if Placement::of(copy.as_fd()) == Ok(wanted) {
        Ok(wanted)
    } else {
        Err(FailedCall::of("copying metadata")(Errno::IO))
    }
}

fn copy_content(original: &LeasedFile, size: u64, copy: &OwnedFd) -> Result<(), FailedCall> {
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
            Ok(0) => return Err(FailedCall::of("copy_file_range")(Errno::IO)),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(FailedCall::of("copy_file_range")(errno)),
        }
    }
    Ok(())
}

fn copy_metadata(original: &LeasedFile, stamp: &Stamp, copy: &OwnedFd) -> Result<(), FailedCall> {
    // In this order: a change of owner clears set-user-ID bits and capabilities, a change of mode changes the
    // mask of an ACL, and every change sets the times.
    let (owner, group) = (Uid::from_raw(stamp.owner), Gid::from_raw(stamp.group));
    let change = || rustix::fs::fchown(copy, Some(owner), Some(group));
    fault::at(Point::CopyMetadata, change).map_err(FailedCall::of("fchown"))?;
    let mode = Mode::from_raw_mode(u32::from(stamp.mode) & 0o7777);
    fault::at(Point::CopyMetadata, || rustix::fs::fchmod(copy, mode))
        .map_err(FailedCall::of("fchmod"))?;

    let wanted = identity::extended_attributes(original.as_fd())?;
    // The directory's default ACL may have given the copy an ACL that the original lacks.
    for (name, _) in identity::extended_attributes(copy.as_fd())? {
        if !wanted.iter().any(|(wanted, _)| *wanted == name) {
            fremovexattr(copy, &name).map_err(FailedCall::of("fremovexattr"))?;
        }
    }
    for (name, value) in &wanted {
        let has = xattr::get(copy, name).map_err(FailedCall::of("fgetxattr"))?;
        if has.as_ref() != Some(value) {
            let set = || fsetxattr(copy, name, value, XattrFlags::empty());
            fault::at(Point::CopyMetadata, set).map_err(FailedCall::of("fsetxattr"))?;
        }
    }
    flags::clear(copy.as_fd()).map_err(FailedCall::of("ioctl(FS_IOC_SETFLAGS)"))?;
    let set = || set_mtime(copy.as_fd(), stamp.mtime.into());
    fault::at(Point::CopyMetadata, set).map_err(FailedCall::of("futimens"))
}
