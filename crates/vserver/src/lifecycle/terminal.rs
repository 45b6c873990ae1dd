//! Shows a terminal of the guest on the caller's terminal.
//!
//! The guest never gets the caller's terminal: it could type commands there (`TIOCSTI`), or listen. Each of the caller's
//! standard streams may be a terminal. This process reads keys from standard input, and shows what the guest writes on
//! the first terminal of standard output, error and input.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// How long to wait until a terminal is read again that no process of the guest has open: one may open it again.
const REOPEN_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Opens a terminal of the guest, whose mount namespace this process is in. Returns the caller's end and the command's.
pub fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let guest = openpt(flags)?;
    unlockpt(&guest)?;
    // Not by its path, where the guest could have put something else.
    let command_end = ioctl_tiocgptpeer(&guest, flags)?;
    Ok((guest, command_end))
}

/// The caller's end of the guest's terminal.
pub struct Terminal {
    guest: OwnedFd,
    shown_on: BorrowedFd<'static>,
    /// Which standard streams of this process are terminals.
    are_terminals: [bool; 3],
    /// The mode of the caller's terminal before it was made raw.
    original: Option<Termios>,
    /// Keys that the guest has not taken yet.
    typed: Vec<u8>,
    has_input: bool,
    is_hung_up: bool,
}

impl Terminal {
    /// `guest` is the caller's end. At least one standard stream of this process must be a terminal.
    pub fn new(guest: OwnedFd, are_terminals: [bool; 3]) -> Self {
        let shown_on = match are_terminals {
            [_, true, _] => stdout(),
            [_, _, true] => stderr(),
            _ => stdin(),
        };
        let terminal = Self {
            guest,
            shown_on,
            are_terminals,
            original: None,
            typed: Vec::new(),
            has_input: are_terminals[0],
            is_hung_up: false,
        };
        terminal.follow_size();
        terminal
    }

    /// Passes every key on, until this value is dropped.
    pub fn begin(&mut self) -> io::Result<()> {
        fcntl_setfl(&self.guest, OFlags::NONBLOCK)?;
        if !self.has_input {
            return Ok(());
        }
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        if self.are_terminals != [true; 3] {
            // Another program of a pipeline may write to the terminal, and expects lines to begin at the left.
            raw.output_modes = before.output_modes;
        }
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        self.original = Some(before);
        Ok(())
    }

    /// Adds the descriptors to wait for.
    pub fn wait_for<'a>(&'a self, waited: &mut Vec<PollFd<'a>>) {
        if self.is_hung_up {
            return;
        }
        let mut of_guest = PollFlags::IN;
        if !self.typed.is_empty() {
            of_guest |= PollFlags::OUT;
        }
        waited.push(PollFd::new(&self.guest, of_guest));
        // Reads no more keys until the guest has taken the last.
        if self.has_input && self.typed.is_empty() {
            waited.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
    }

    /// How long to wait at most.
    pub fn timeout(&self) -> Option<&'static Timespec> {
        self.is_hung_up.then_some(&REOPEN_INTERVAL)
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
            // What the guest does not take now stays in `typed`.
            if let Ok(count) = rustix::io::write(&self.guest, &self.typed) {
                self.typed.drain(..count);
            }
        }
        loop {
            let read = rustix::io::read(&self.guest, &mut buffer);
            self.is_hung_up = read == Err(Errno::IO);
            let Ok(count @ 1..) = read else {
                return Ok(());
            };
            show(self.shown_on, &buffer[..count])?;
            if !has_ended {
                return Ok(());
            }
        }
    }

    /// Makes the guest's terminal as large as the host's.
    pub fn follow_size(&self) {
        if let Ok(size) = tcgetwinsize(self.shown_on) {
            let _ = tcsetwinsize(&self.guest, size);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.original {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Whether something was typed.
fn is_ready() -> bool {
    let mut waited = [PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(rustix::event::poll(&mut waited, Some(&at_once)), Ok(1..))
}

fn show(on: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(on, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            // Standard input may be open only for reading, and can show nothing then.
            Err(Errno::BADF) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
