//! Descriptors of this process and of others: `close_range(2)`, `dup2(2)`, `kcmp(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::last_error;

/// Closes every descriptor but the standard ones when the next program begins.
///
/// # Errors
/// The kernel is older than 5.11.
pub fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: the call changes flags of this process's descriptors and touches no memory. No
    // descriptor is closed now, so that none that somebody owns goes away under him.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes `to` a second name of the open file `from`, across exec.
///
/// # Errors
/// The call's.
pub fn duplicate_onto(from: impl AsFd, to: i32) -> io::Result<()> {
    // SAFETY: `to` is one of the standard descriptors, which no value owns.
    let done = unsafe { libc::dup2(from.as_fd().as_raw_fd(), to) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether two descriptors of two processes are one open file, with one position and one set of locks.
///
/// # Errors
/// `EBADF` when one is closed, `ESRCH` when a process is gone; `ENOSYS` without `kcmp(2)`.
pub fn is_one_open_file(first: (u32, u32), second: (u32, u32)) -> Result<bool, Errno> {
    const KCMP_FILE: libc::c_int = 0;
    // SAFETY: the call takes numbers only.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            libc::c_long::from(first.0),
            libc::c_long::from(second.0),
            KCMP_FILE,
            libc::c_ulong::from(first.1),
            libc::c_ulong::from(second.1),
        )
    };
    match answer {
        0 => Ok(true),
        1..=3 => Ok(false),
        _ => Err(last_error()),
    }
}
