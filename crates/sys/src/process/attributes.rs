//! What a process hands on to its children and to the program that it becomes: `setpriority(2)`, `ioprio_set(2)`,
//! `personality(2)`, `unshare(2)`.

use std::io;

use rustix::thread::UnshareFlags;

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
