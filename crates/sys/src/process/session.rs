//! What becomes of a program between fork and exec.

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
    // SAFETY: the closure runs between fork and exec, where only calls that are safe in a signal
    // handler may be made: it makes three system calls, takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(prepare);
    }
}
