//! The same inode through another mount (`name_to_handle_at(2)`, `open_by_handle_at(2)`).
//!
//! A container sees its files through mounts of its own: covered in places by others, read-only, or with other
//! owners' numbers (`mount_setattr(2)`). The broker decides about a file, and replaces it, through the host's mount of
//! the filesystem that the store is on.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::last_error;

/// `MAX_HANDLE_SZ` (`linux/exportfs.h`).
const LARGEST: u32 = 128;

/// A `struct file_handle` with room for any filesystem's.
#[repr(C)]
struct Handle {
    size: u32,
    kind: i32,
    bytes: [u8; LARGEST as usize],
}

/// Opens with `flags` the inode of `file`, which may be open by `O_PATH` only, through the mount of the descriptor
/// `mount`.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no handles, `ESTALE` where `mount` is of another filesystem, and
/// what `open_by_handle_at(2)` lists.
pub fn through(
    file: BorrowedFd<'_>,
    mount: BorrowedFd<'_>,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let mut handle = Handle {
        size: LARGEST,
        kind: 0,
        bytes: [0; LARGEST as usize],
    };
    let mut mount_id = 0;
    // SAFETY: `name_to_handle_at` reads the path, an empty C string, and writes at most `size` bytes of handle, for
    // which `Handle` has room, and the mount's id: both live until the call returns.
    let done = unsafe {
        libc::name_to_handle_at(
            file.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if done != 0 {
        return Err(last_error());
    }
    let flags = i32::from_ne_bytes((flags | OFlags::CLOEXEC).bits().to_ne_bytes());
    // SAFETY: `open_by_handle_at` reads the handle, which the call above has filled and which lives until this one
    // returns.
    let opened =
        unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), flags) };
    if opened < 0 {
        return Err(last_error());
    }
    // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: the kernel has just made it.
    let opened = unsafe { OwnedFd::from_raw_fd(opened) };
    let (asked, found) = (rustix::fs::fstat(file)?, rustix::fs::fstat(&opened)?);
    if (asked.st_dev, asked.st_ino) == (found.st_dev, found.st_ino) {
        Ok(opened)
    } else {
        Err(Errno::STALE)
    }
}
