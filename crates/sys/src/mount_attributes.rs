//! Attributes of a mount that has no mount point yet (`mount_setattr(2)`, Linux 5.12).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Of which mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// This one alone.
    This,
    /// This one and all below it.
    All,
}

/// Gives the mount that is open as `tree` the `attributes`.
///
/// # Errors
/// `ENOSYS` on an older kernel; otherwise the call's.
pub fn set(tree: BorrowedFd<'_>, which: Which, attributes: &libc::mount_attr) -> io::Result<()> {
    let below = match which {
        Which::This => 0,
        Which::All => libc::AT_RECURSIVE,
    };
    // SAFETY: `mount_setattr` reads the path, an empty C string, and as many bytes of the structure as its last
    // argument says, the structure's own size. Both live until the call returns, and it writes to neither.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
