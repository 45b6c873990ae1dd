//! Signals that this process takes: `signal(2)`, `signalfd(2)`.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Has every signal do to this process, and to whatever program it becomes, what programs expect of it.
///
/// What is ignored or blocked outlives execve(2): Rust's start code ignores SIGPIPE, nohup(1) SIGHUP, and a shell
/// SIGINT and SIGQUIT for what it starts in the background.
pub fn restore_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is no function of ours, so nothing can run at a bad moment. What cannot be set (SIGKILL,
        // SIGSTOP, two of the C library's own) is refused and has never been otherwise.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    let mut none = std::mem::MaybeUninit::uninit();
    // SAFETY: the call writes a whole set to where it may.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was written above; what was blocked before is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

/// Has a write to a pipe that nobody reads any more fail, and not end this process.
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is no function of ours, so nothing can run at a bad moment.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Keeps the signals from this thread and gives a descriptor on which they can be read instead, each
/// as [`next_signal`] returns it.
///
/// # Errors
/// The call's.
pub fn signals_as_descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call initialises the whole set that it is given.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
    }
    // SAFETY: it was initialised by the call above, which cannot fail.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: the set is a valid one, and a wrong number is an error, not an access.
        unsafe {
            libc::sigaddset(&raw mut set, *signal);
        }
    }
    // SAFETY: both sets are valid, and the old one is not asked for.
    let done =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if done != 0 {
        return Err(io::Error::from_raw_os_error(done));
    }
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is valid, and -1 asks for a new descriptor.
    let made = unsafe { libc::signalfd(-1, &raw const set, flags) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// The number of the next signal that waits on such a descriptor.
#[must_use]
pub fn next_signal(signals: &OwnedFd) -> Option<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(signals, &mut info) {
        // The number is the first field of the structure.
        Ok(count) if count == info.len() => {
            Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
        }
        _ => None,
    }
}
