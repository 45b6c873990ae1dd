//! A terminal of the guest's, shown on the one that the command was typed on.
//!
//! The guest never gets the host's terminal, on which it could type commands (`TIOCSTI`) or listen.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// The monitor's end of the guest's terminal, and keys that the guest has not taken yet.
pub struct Terminal {
    guest: OwnedFd,
    before: Option<Termios>,
    typed: Vec<u8>,
    has_input: bool,
}

impl Terminal {
    /// Opens one in the guest, where this process must be already, and gives it to the command.
    pub fn open(command: &mut Command) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let guest = openpt(flags)?;
        unlockpt(&guest)?;
        // Not by its name, which the guest could have put something else at.
        let end = ioctl_tiocgptpeer(&guest, flags)?;
        command
            .stdin(Stdio::from(end.try_clone()?))
            .stdout(Stdio::from(end.try_clone()?))
            .stderr(Stdio::from(end));
        let terminal = Self {
            guest,
            before: None,
            typed: Vec::new(),
            has_input: true,
        };
        terminal.follow_size();
        Ok(terminal)
    }

    /// Passes every key on from now on, until this value is dropped.
    pub fn begin(&mut self) -> io::Result<()> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        self.before = Some(before);
        fcntl_setfl(&self.guest, OFlags::NONBLOCK)?;
        Ok(())
    }

    /// Adds the descriptors to wait for.
    pub fn wait_for<'a>(&'a self, waited: &mut Vec<PollFd<'a>>) {
        let mut of_guest = PollFlags::IN;
        if !self.typed.is_empty() {
            of_guest |= PollFlags::OUT;
        }
        waited.push(PollFd::new(&self.guest, of_guest));
        // No more keys are read until the guest has taken the last.
        if self.has_input && self.typed.is_empty() {
            waited.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
    }

    /// Copies one buffer in each direction, and at the end everything that the guest wrote.
    pub fn relay(&mut self, has_ended: bool) -> io::Result<()> {
        let mut buffer = [0; 4096];
        if self.has_input && self.typed.is_empty() && is_ready() && !has_ended {
            match rustix::io::read(stdin(), &mut buffer) {
                Ok(0) => self.has_input = false,
                Ok(count) => self.typed.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !self.typed.is_empty() {
            // The rest is written again later.
            if let Ok(count) = rustix::io::write(&self.guest, &self.typed) {
                self.typed.drain(..count);
            }
        }
        while let Ok(count @ 1..) = rustix::io::read(&self.guest, &mut buffer) {
            show(&buffer[..count])?;
            if !has_ended {
                break;
            }
        }
        Ok(())
    }

    /// Makes the guest's terminal as large as the host's.
    pub fn follow_size(&self) {
        if let Ok(size) = tcgetwinsize(stdout()) {
            let _ = tcsetwinsize(&self.guest, size);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Whether something was typed.
fn is_ready() -> bool {
    let mut waited = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    let at_once = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(rustix::event::poll(&mut waited, Some(&at_once)), Ok(1..))
}

fn show(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(stdout(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
