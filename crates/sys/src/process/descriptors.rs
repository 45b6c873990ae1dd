//! Descriptors of this process and of others: `close_range(2)`, `dup2(2)`, `kcmp(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags};

use crate::last_error;

/// The first number behind those of the standard streams.
const FIRST_OTHER: libc::c_int = 3;

/// Closes every descriptor but the standard ones when the next program begins.
///
/// # Errors
/// The kernel is older than 5.11.
pub fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: `close_range` takes three integers and no pointer. With CLOEXEC it closes nothing now, so that every
    // `OwnedFd` keeps its descriptor.
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

/// Lets a descriptor outlive exec.
///
/// # Errors
/// The call's.
pub fn keep_on_exec(descriptor: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?)
}

/// A duplicate of the descriptor with this number, which the program before this one left open. Closes that one.
///
/// # Errors
/// There is none.
pub fn adopt_number(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: `fcntl` takes three integers and no pointer; it refuses a number that is not open.
    let own = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, FIRST_OTHER) };
    if own < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `close` takes an integer. Nothing here owns the number: the program before this one said that it is for whoever
    // adopts it.
    unsafe { libc::close(number) };
    // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: `fcntl` has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(own) })
}

/// Makes the standard descriptor `to` a duplicate of `from` that outlives exec.
///
/// # Errors
/// The call's.
pub fn duplicate_onto(from: impl AsFd, to: i32) -> io::Result<()> {
    // SAFETY: `dup2` takes two integers and no pointer. It closes what `to` was: callers name a standard descriptor,
    // which no `OwnedFd` of this program owns.
    let done = unsafe { libc::dup2(from.as_fd().as_raw_fd(), to) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Whether two descriptors, each a process and a number, are one open file: with one position and one set of locks.
///
/// # Errors
/// `EBADF` when one is closed, `ESRCH` when a process is gone; `ENOSYS` without `kcmp(2)`.
pub fn is_one_open_file(first: (u32, u32), second: (u32, u32)) -> Result<bool, Errno> {
    const KCMP_FILE: libc::c_int = 0;
    // SAFETY: `kcmp` takes five integers and, for KCMP_FILE, no pointer.
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
