//! A program that begins in a session of its own: `setsid(2)`.

use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::descriptors::close_others_on_exec;
use super::signals::unblock_signals;

/// Makes the program of `command` the leader of a session of its own, without any descriptor but its standard ones,
/// and without a signal that is blocked. `terminal`, one of its standard streams, is its controlling terminal.
pub fn in_own_session(command: &mut Command, terminal: Option<BorrowedFd<'static>>) {
    let prepare = move || {
        rustix::process::setsid()?;
        if let Some(terminal) = terminal {
            rustix::process::ioctl_tiocsctty(terminal)?;
        }
        unblock_signals();
        close_others_on_exec()
    };
    // SAFETY: `pre_exec` asks that the closure makes only calls that are async-signal-safe, since it runs in the child
    // of a process with threads: it makes at most four system calls, takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(prepare);
    }
}
