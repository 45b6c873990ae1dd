//! The memory of another process.

use rustix::io::Errno;

use crate::last_error;

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
