//! What this process looks at in another one.

use std::fs::File;
use std::io::{self, Read};

use rustix::io::Errno;

use super::last_error;

/// Reads a file of a process's or thread's directory in `/proc`.
///
/// # Errors
/// As [`is_gone`] tells, where it is no more; what `open(2)` and `read(2)` list.
pub fn tell(thread: u32, what: &str) -> io::Result<String> {
    // The kernel makes these files out when they are read; their size is told as zero, by which nothing
    // would be read at first but a few bytes.
    let mut text = String::with_capacity(4096);
    File::open(format!("/proc/{thread}/{what}"))?.read_to_string(&mut text)?;
    Ok(text)
}

/// Whether an error of a file below `/proc/PID` says that there is no such process or thread any more.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::SRCH)
    )
}

/// Copies memory of a thread's process, from `address` on. Returns how many bytes there were: fewer
/// than asked for where its memory ends.
///
/// # Errors
/// `EFAULT` where nothing is there, `ESRCH` when the thread is gone.
pub fn read_memory(thread: u32, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(
            usize::try_from(address).map_err(|_| Errno::FAULT)?,
        ),
        iov_len: into.len(),
    };
    let thread = libc::pid_t::try_from(thread).map_err(|_| Errno::SRCH)?;
    // SAFETY: the local vector is one of `into`, of its length; what the remote one names is another
    // process's memory, which the kernel checks.
    let count =
        unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).map_err(|_| last_error())
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
