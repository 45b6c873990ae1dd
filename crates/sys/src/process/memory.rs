//! The memory of another process: `process_vm_readv(2)`.

use rustix::io::Errno;

use crate::last_error;

/// Copies the memory of a thread's process from `address` on. Returns the count of bytes: fewer than asked for where
/// its mapping ends.
///
/// # Errors
/// `EFAULT` where nothing is mapped, `ESRCH` when the thread has gone.
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
    // SAFETY: `process_vm_readv` writes to the local vector, which is `into` with its length, borrowed mutably for the
    // whole call; the remote vector holds addresses of another process, which the kernel checks. Both counts are 1.
    let count =
        unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).map_err(|_| last_error())
}
