//! Waits for the command: passes signals on, and keys and output where it has a terminal or the streams are copied.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};
use vhashify_sys::process::{is_ignored, next_signal, signals_as_descriptor};

use super::super::terminal::Terminal;
use super::streams::Relays;

/// The signals that go on to the command.
pub const PASSED_ON: [i32; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// What this process shows of the command meanwhile.
#[derive(Default)]
pub struct Shown {
    /// The guest's terminal, if it has one.
    pub terminal: Option<Terminal>,
    /// The streams that are copied.
    pub relays: Relays,
}

/// Lets the entering process execute the command by `go`, and waits until that process ends. Meanwhile shows what the
/// command writes. Returns the exit status.
pub fn supervise(
    child: &mut Child,
    shown: &mut Shown,
    go: impl FnOnce() -> io::Result<()>,
) -> io::Result<u8> {
    // What this process ignores (nohup(1) has it so) is not for the command, which ignores nothing.
    let mut watched = PASSED_ON.to_vec();
    watched.retain(|signal| !is_ignored(*signal));
    watched.push(libc::SIGWINCH);
    let signals = signals_as_descriptor(&watched)?;
    if let Some(terminal) = &mut shown.terminal {
        terminal.begin()?;
    }
    shown.relays.begin()?;
    // It may have ended meanwhile.
    drop(go());
    let status = pass_on(child, &signals, shown);
    // Gives the caller's terminal its mode back.
    shown.terminal = None;
    status
}

/// Waits in the entering process until the command ends. Returns the exit status.
pub fn wait_for(child: &mut Child, signals: &OwnedFd) -> io::Result<u8> {
    pass_on(child, signals, &mut Shown::default())
}

/// Passes signals, keys and output on until the child ends. Returns its exit status: 128 + n when signal n ended it.
fn pass_on(child: &mut Child, signals: &OwnedFd, shown: &mut Shown) -> io::Result<u8> {
    let pid = rustix::process::Pid::from_child(child);
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let mut waited = vec![
            PollFd::new(&handle, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        shown.relays.wait_for(&mut waited);
        if let Some(terminal) = &shown.terminal {
            terminal.wait_for(&mut waited);
        }
        let timeout = shown.terminal.as_ref().and_then(Terminal::timeout);
        match poll(&mut waited, timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_ended = !waited[0].revents().is_empty();
        drop(waited);
        while let Some(signal) = next_signal(signals) {
            match &shown.terminal {
                Some(terminal) if signal == libc::SIGWINCH => terminal.follow_size(),
                _ if signal == libc::SIGWINCH => {}
                _ => {
                    // It may have ended meanwhile.
                    drop(vhashify_sys::pidfd::send_signal(&handle, signal));
                }
            }
        }
        if let Some(terminal) = &mut shown.terminal {
            terminal.relay(has_ended)?;
        }
        shown.relays.relay(has_ended);
        if has_ended {
            let ended = child.wait()?;
            let code = ended.code().or(ended.signal().map(|signal| 128 + signal));
            return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
    }
}
