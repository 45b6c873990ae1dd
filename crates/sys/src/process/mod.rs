//! What a process does to itself on its way into a guest.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::UnshareFlags;

/// Makes the program of `command` the leader of a session of its own, without any descriptor but
/// its standard ones. With `has_terminal`, its standard input is its controlling terminal.
pub fn in_own_session(command: &mut Command, has_terminal: bool) {
    let prepare = move || {
        rustix::process::setsid()?;
        if has_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        close_others_on_exec()
    };
    // SAFETY: the closure runs between fork and exec, where only calls that are safe in a signal
    // handler may be made: it makes three system calls, takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(prepare);
    }
}

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

/// Gives this process a copy of the mounts of its own.
///
/// # Errors
/// The call's.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: a mount namespace of its own gives the process other mounts and nothing else; file
    // descriptors stay shared with whoever shared them before.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(())
}

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

/// Sets the priority of this process and its children.
///
/// # Errors
/// The call's.
pub fn set_nice(nice: i32) -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, nice)?)
}

/// Sets how this process and its children come to disks: a class and a level, as
/// `ioprio_set(2)` has them.
///
/// # Errors
/// The call's.
pub fn set_io_priority(class: u8, level: u8) -> io::Result<()> {
    const OF_A_PROCESS: i32 = 1;
    let priority = (libc::c_int::from(class) << 13) | libc::c_int::from(level);
    // SAFETY: the call takes three numbers and touches no memory.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, OF_A_PROCESS, 0, priority) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the personality of this process and its children.
///
/// # Errors
/// The call's.
pub fn set_personality(personality: u32) -> io::Result<()> {
    // SAFETY: the call takes a number and touches no memory; what it changes is how later system
    // calls and programs behave, not what this program has in memory.
    let done = unsafe { libc::personality(libc::c_ulong::from(personality)) };
    if done >= 0 {
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

/// Sends any signal, the real-time ones too, to the process of a pidfd.
///
/// # Errors
/// The call's; `ESRCH` when it has ended.
pub fn send_signal(process: impl AsFd, number: i32) -> io::Result<()> {
    // SAFETY: without a siginfo, which may be null, the call reads no memory of this process.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
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
