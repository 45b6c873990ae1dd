//! What this process looks at in another one.

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::last_error;

/// Reads a file of a process's or thread's directory in `/proc`: one that the kernel makes out as a whole
/// (`single_open`, `fs/seq_file.c`), as it does `status`, `syscall`, `fdinfo/N` and others of one record.
///
/// # Errors
/// As [`is_gone`] tells, where it is no more; what `open(2)` and `read(2)` list.
pub fn tell(thread: u32, what: &str) -> Result<String, Errno> {
    let path = format!("/proc/{thread}/{what}");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Its size is told as zero, and a read that is short has come to its end: to ask for either would be half of
    // the calls.
    let mut text = Vec::with_capacity(4096);
    loop {
        text.reserve(1);
        let room = text.capacity() - text.len();
        if rustix::io::read(&file, spare_capacity(&mut text))? < room {
            break;
        }
    }
    // A process names itself as it likes.
    Ok(String::from_utf8(text)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Whether an error of a file below `/proc/PID` says that there is no such process or thread any more.
#[must_use]
pub fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::SRCH)
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
