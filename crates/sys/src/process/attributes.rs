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

/// Sets the input and output priority of this process and its children: a class and a level of `ioprio_set(2)`.
///
/// # Errors
/// The call's.
pub fn set_io_priority(class: u8, level: u8) -> io::Result<()> {
    /// `IOPRIO_WHO_PROCESS`.
    const OF_A_PROCESS: i32 = 1;
    let priority = (libc::c_int::from(class) << 13) | libc::c_int::from(level);
    // SAFETY: `ioprio_set` takes three integers and no pointer; 0 is this process.
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
    // SAFETY: `personality` takes an integer and no pointer. It moves no mapping that exists: it decides where later
    // ones go, and what the next program looks like.
    let done = unsafe { libc::personality(libc::c_ulong::from(personality)) };
    if done >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Moves this thread into a new mount namespace, which begins as a copy of the one it had.
///
/// # Errors
/// The call's.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: `unshare_unsafe` asks that nothing relies on descriptors that a thread shares: only CLONE_FILES would
    // part these, and CLONE_NEWNS is asked for alone.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(())
}
