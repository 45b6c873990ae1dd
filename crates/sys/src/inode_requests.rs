//! Requests that change an inode through a descriptor that is open for reading, and that no crate wraps.
//!
//! They stand here to be refused: the guard is tried with each of them before anything is shared under it.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

use super::last_error;

/// `FS_IOC_FSGETXATTR`, `FS_IOC_FSSETXATTR` (`include/uapi/linux/fs.h`), with `struct fsxattr` of 28 bytes.
const FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FSSETXATTR: libc::c_ulong = 0x401c_5820;
/// `FS_XFLAG_SYNC`, `FS_XFLAG_NOATIME`.
const XFLAGS_OF_MARK: u32 = 0x20 | 0x40;
/// `file_setattr(2)`, since Linux 6.17; the same number on every architecture.
const FILE_SETATTR: libc::c_long = 469;
/// `F_SET_RW_HINT` and `F_SETDELEG` (`include/uapi/linux/fcntl.h`).
const SET_RW_HINT: libc::c_int = 1036;
const SETDELEG: libc::c_int = 1040;
/// `RWH_WRITE_LIFE_SHORT`.
const SHORT: u64 = 2;

/// Takes the flags `S` and `A` away by `FS_IOC_FSSETXATTR`.
///
/// # Errors
/// What `ioctl_xfs_fssetxattr(2)` lists; `ENOTTY` or `EOPNOTSUPP` where the filesystem does not know it.
pub fn clear_mark_by_fssetxattr(file: BorrowedFd<'_>) -> Result<()> {
    let mut attributes = [0_u32; 7];
    // SAFETY: the request writes the 28 bytes of struct fsxattr, which is what is given.
    let got = unsafe { libc::ioctl(file.as_raw_fd(), FSGETXATTR, attributes.as_mut_ptr()) };
    done(got.into())?;
    attributes[0] &= !XFLAGS_OF_MARK;
    // SAFETY: the request reads as many.
    done(unsafe { libc::ioctl(file.as_raw_fd(), FSSETXATTR, attributes.as_ptr()) }.into())
}

/// Takes all flags away by `file_setattr(2)`.
///
/// # Errors
/// What the call lists; `ENOSYS` before Linux 6.17.
pub fn clear_mark_by_file_setattr(file: BorrowedFd<'_>) -> Result<()> {
    let attributes = [0_u64; 3];
    // SAFETY: the path is a string of no bytes with its end, and the call reads the 24 bytes of the attributes.
    let result = unsafe {
        libc::syscall(
            FILE_SETATTR,
            file.as_raw_fd(),
            c"".as_ptr(),
            attributes.as_ptr(),
            size_of_val(&attributes),
            libc::AT_EMPTY_PATH,
        )
    };
    done(result)
}

/// Says of the inode that its data will be short-lived (`F_SET_RW_HINT`).
///
/// # Errors
/// What `fcntl(2)` lists.
pub fn set_write_hint(file: BorrowedFd<'_>) -> Result<()> {
    let hint = SHORT;
    // SAFETY: the request reads 64 bits, which are given.
    done(unsafe { libc::fcntl(file.as_raw_fd(), SET_RW_HINT, &raw const hint) }.into())
}

/// Takes a delegation for reading (`F_SETDELEG`, since Linux 6.19).
///
/// # Errors
/// What `fcntl(2)` lists; `EINVAL` where the kernel does not know it.
pub fn take_delegation(file: BorrowedFd<'_>) -> Result<()> {
    #[repr(C)]
    struct Delegation {
        flags: u32,
        kind: u16,
        padding: u16,
    }
    let wanted = Delegation {
        flags: 0,
        kind: libc::F_RDLCK.unsigned_abs().try_into().unwrap_or(0),
        padding: 0,
    };
    // SAFETY: the request reads a struct delegation, which is what is given.
    done(unsafe { libc::fcntl(file.as_raw_fd(), SETDELEG, &raw const wanted) }.into())
}

/// Whether an error says that the kernel or the filesystem does not know the request at all.
#[must_use]
pub fn is_unknown(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOSYS | Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL
    )
}

fn done(result: libc::c_long) -> Result<()> {
    if result < 0 {
        return Err(last_error());
    }
    Ok(())
}
