//! Signals that this process takes: `signal(2)`, `signalfd(2)`.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Gives every signal that is ignored its default disposition and blocks none, for this process and the program that it becomes.
///
/// What is ignored or blocked stays so across execve(2): Rust's start code ignores SIGPIPE, nohup(1) SIGHUP, and a
/// shell SIGINT and SIGQUIT for what it starts in the background.
pub fn restore_signals() {
    for signal in 1..=LAST_SIGNAL {
        if is_ignored(signal) {
            set_default(signal);
        }
    }
    unblock_signals();
}

/// The highest number that the kernel knows (`_NSIG`).
const LAST_SIGNAL: i32 = 64;

/// A disposition as the kernel has it: the handler comes first. The C library hides two signals from its own `sigaction`.
type Action = [u64; 4];

/// The size of the kernel's set of signals.
const SET_SIZE: usize = 8;

/// Whether this process ignores the signal: nohup(1) does that to SIGHUP, say, for the program that it becomes.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    let mut current = Action::default();
    let none = std::ptr::null::<Action>();
    // SAFETY: `rt_sigaction` sets nothing where the first pointer is null, and writes at most 32 bytes to the second, which is
    // one to as many.
    let done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            none,
            current.as_mut_ptr(),
            SET_SIZE,
        )
    };
    done == 0 && current[0] == libc::SIG_IGN as u64
}

/// Gives an ignored signal its default disposition. It stays where the kernel refuses that.
fn set_default(signal: i32) {
    let default = Action::default();
    let none = std::ptr::null_mut::<Action>();
    // SAFETY: `rt_sigaction` reads at most 32 bytes from the first pointer, which is one to as many: zeros are SIG_DFL, without
    // flags and with an empty mask, and no handler of this process is replaced, since the signal is ignored.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            default.as_ptr(),
            none,
            SET_SIZE,
        )
    };
}

/// Blocks no signal, for this thread and the program that it becomes. Async-signal-safe.
pub(super) fn unblock_signals() {
    let mut none = std::mem::MaybeUninit::uninit();
    // SAFETY: `sigemptyset` writes a whole `sigset_t` to the pointer, which is one to room for it.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: `pthread_sigmask` reads the set, which `sigemptyset` has initialised; the pointer to the old one may be
    // null.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

/// Makes a write to a pipe without readers fail with `EPIPE`, and not end this process.
pub fn ignore_broken_pipes() {
    // SAFETY: `signal` asks for a handler that is async-signal-safe: SIG_IGN is none.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Blocks the signals for this thread and returns a descriptor from which [`next_signal`] reads them.
///
/// # Errors
/// The call's.
pub fn signals_as_descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` writes a whole `sigset_t` to the pointer, which is one to room for it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
    }
    // SAFETY: `sigemptyset` above has initialised the set; it fails for no valid pointer.
    let mut set = unsafe { set.assume_init() };
    for signal in signals {
        // SAFETY: `sigaddset` asks for an initialised set; a number that is no signal is EINVAL.
        unsafe {
            libc::sigaddset(&raw mut set, *signal);
        }
    }
    // SAFETY: `pthread_sigmask` reads the set, which is initialised; the pointer to the old one may be null.
    let done =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if done != 0 {
        return Err(io::Error::from_raw_os_error(done));
    }
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: `signalfd` reads the set, which is initialised; -1 asks for a new descriptor.
    let made = unsafe { libc::signalfd(-1, &raw const set, flags) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: `signalfd` has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// The number of the next signal that waits on a descriptor of [`signals_as_descriptor`].
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
