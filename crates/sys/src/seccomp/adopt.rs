//! A listener that a C library has made in this process.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl};

use super::listener::ID_VALID;

/// Takes over the listener that a C library made in this process and gave away as a number.
///
/// A process does so once: libseccomp asks the kernel for one listener, and gives its number to everybody who
/// asks later.
///
/// # Errors
/// `EALREADY` the second time; `EBADF` or `EINVAL` for the number of anything else.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    static IS_ADOPTED: AtomicBool = AtomicBool::new(false);
    if IS_ADOPTED.swap(true, Ordering::Relaxed) {
        return Err(Errno::ALREADY.into());
    }
    // SAFETY: the descriptor is looked at and given back before this returns; a number of none is an error of the
    // call below, except -1, which may not be borrowed.
    let borrowed = (number != -1).then(|| unsafe { BorrowedFd::borrow_raw(number) });
    let borrowed = borrowed.ok_or(Errno::BADF)?;
    // SAFETY: ID_VALID takes a pointer to a `u64`, which `Setter` passes.
    let call = unsafe { Setter::<ID_VALID, u64>::new(0) };
    // SAFETY: a listener compares the number with those of its calls and answers ENOENT; nothing else knows it.
    match unsafe { ioctl(borrowed, call) } {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::BADF) => return Err(Errno::BADF.into()),
        Err(_) => return Err(Errno::INVAL.into()),
    }
    // SAFETY: the library that made it gives it away, and nobody has taken it before, which is seen above.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
