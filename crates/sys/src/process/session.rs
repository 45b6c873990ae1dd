//! A program that begins in a session of its own: `setsid(2)`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::descriptors::close_others_on_exec;

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
    // SAFETY: `pre_exec` asks that the closure makes only calls that are async-signal-safe, since it runs in the child
    // of a process with threads: it makes at most three system calls, takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(prepare);
    }
}
