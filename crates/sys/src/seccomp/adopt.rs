//! A listener that a C library has made in this process.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl};

use super::listener::ID_VALID;

/// Takes over the listener that a C library made in this process and gave away as a number.
///
/// Once a process: libseccomp asks the kernel for one listener, and returns its number to every later caller.
///
/// # Errors
/// `EALREADY` the second time; `EBADF` or `EINVAL` for the number of anything else.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    static IS_ADOPTED: AtomicBool = AtomicBool::new(false);
    if IS_ADOPTED.swap(true, Ordering::Relaxed) {
        return Err(Errno::ALREADY.into());
    }
    // SAFETY: `borrow_raw` asks that the number is not -1, which is excluded here, and that the descriptor stays open
    // while it is borrowed: that ends with the call below, and the library closes it in no call of its own meanwhile.
    // The number of no descriptor is EBADF there.
    let borrowed = (number != -1).then(|| unsafe { BorrowedFd::borrow_raw(number) });
    let borrowed = borrowed.ok_or(Errno::BADF)?;
    // SAFETY: ID_VALID takes a pointer to a `u64`, which `Setter` passes.
    let call = unsafe { Setter::<ID_VALID, u64>::new(0) };
    // SAFETY: the kernel reads the `u64` and writes nothing: a listener compares it with the ids of its calls and
    // answers ENOENT; a descriptor of another kind refuses the opcode.
    match unsafe { ioctl(borrowed, call) } {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::BADF) => return Err(Errno::BADF.into()),
        Err(_) => return Err(Errno::INVAL.into()),
    }
    // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: the call above has seen it open, the
    // library gives it away, and `IS_ADOPTED` lets only the first caller come here.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
