//! The console that a guest's init writes to: a pipe, or a terminal for an init that boots a whole system, as systemd
//! expects. The monitor copies it into a log.
//!
//! The guest waits while it writes faster than the log takes ([`Allowance`]), so that what it writes costs the host little
//! time and two files of a bounded length.
//!
//! The pipe has a name in the state directory, so the successor of a monitor that died can read on. A terminal ends
//! with the monitor that holds it: from then on the guest has no console.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::bounded_log::BoundedLog;
use super::error::Doing;
use super::{LifecycleError, StateDirectory};

/// The length at which a console log becomes `console.log.1`.
const LONGEST_LOG: u64 = 1 << 20;
/// How many bytes of a guest's console are taken in a second.
const RATE: u64 = 1 << 20;
/// How many are taken at once after it was quiet.
const BURST: u64 = 4 << 20;
/// The least that is worth waking up for.
const LEAST: u64 = 64 << 10;

/// The mode of a console. A daemon that runs as a user of the guest opens it anew when it writes to `/dev/stdout`; no user
/// of the host gets to it, since its state directory is closed.
const WRITTEN_BY_ALL: Mode = Mode::RUSR
    .union(Mode::WUSR)
    .union(Mode::WGRP)
    .union(Mode::WOTH);

/// The console of a new guest.
#[derive(Debug)]
pub struct Console {
    /// The end that the monitor reads, and holds open while the guest runs.
    pub monitor_end: OwnedFd,
    /// The end for init's standard streams.
    pub init_end: OwnedFd,
    /// The path of init's end on the host, if it is a terminal.
    pub terminal: Option<PathBuf>,
}

impl Console {
    /// Makes the pipe. The guest's end is open for reading, too, so that the guest can write while no monitor lives.
    pub fn pipe(state: &StateDirectory) -> Result<Self, LifecycleError> {
        let path = state.at("console");
        drop(fs::remove_file(&path));
        let mode = Mode::RUSR | Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).doing("mkfifo", &path)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let monitor_end = rustix::fs::open(&path, flags, Mode::empty()).doing("open", &path)?;
        rustix::fs::fchmod(&monitor_end, WRITTEN_BY_ALL).doing("chmod", &path)?;
        let init_end = monitor_end.try_clone().doing("dup", &path)?;
        Ok(Self {
            monitor_end,
            init_end,
            terminal: None,
        })
    }

    /// Makes a terminal in raw mode, so that the log has what the guest wrote.
    pub fn terminal() -> Result<Self, LifecycleError> {
        let path = Path::new("/dev/ptmx");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let monitor_end = openpt(flags).doing("open", path)?;
        unlockpt(&monitor_end).doing("unlockpt", path)?;
        let init_end = ioctl_tiocgptpeer(&monitor_end, flags).doing("open", path)?;
        rustix::fs::fchmod(&init_end, WRITTEN_BY_ALL).doing("chmod", path)?;
        let mut raw = tcgetattr(&init_end).doing("tcgetattr", path)?;
        raw.make_raw();
        tcsetattr(&init_end, OptionalActions::Now, &raw).doing("tcsetattr", path)?;
        let name = ptsname(&monitor_end, Vec::new()).doing("ptsname", path)?;
        let name = PathBuf::from(name.to_string_lossy().into_owned());
        Ok(Self {
            monitor_end,
            init_end,
            terminal: Some(name),
        })
    }
}

/// How much of a console may be read: so many bytes a second, and a burst after quiet.
#[derive(Debug)]
struct Allowance {
    left: u64,
    since: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// How much may be read now.
    fn at(&mut self, now: Instant) -> u64 {
        let earned =
            now.saturating_duration_since(self.since).as_micros() * u128::from(RATE) / 1_000_000;
        // Less than a byte stays to be earned.
        if earned > 0 {
            let earned = u64::try_from(earned).unwrap_or(BURST);
            self.left = self.left.saturating_add(earned).min(BURST);
            self.since = now;
        }
        self.left
    }

    fn take(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// How long until it is worth reading again; `None` where it is now.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let missing = LEAST
            .checked_sub(self.at(now))
            .filter(|missing| *missing > 0)?;
        Some(Duration::from_micros(missing * 1_000_000 / RATE + 1))
    }
}

/// Copies a guest's console into its log.
#[derive(Debug)]
pub struct ConsoleReader {
    source: Option<OwnedFd>,
    /// Holds the guest's end open: without it, poll(2) reports a hang-up at once and for ever.
    _init_end: Option<OwnedFd>,
    log: BoundedLog,
    allowance: Allowance,
}

impl ConsoleReader {
    /// Reads the terminal, if the console is one, else the pipe by its name: its own open file, since the guest has the flags of
    /// the other one. `kept` is the monitor's end.
    pub fn open(state: &StateDirectory, kept: Option<OwnedFd>) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let init_end = kept
            .as_ref()
            .and_then(|kept| ioctl_tiocgptpeer(kept, flags).ok());
        let source = if init_end.is_some() {
            kept.filter(|own| fcntl_setfl(own, OFlags::RDWR | OFlags::NONBLOCK).is_ok())
        } else {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::open(state.at("console"), flags, Mode::empty()).ok()
        };
        Self {
            source,
            _init_end: init_end,
            log: BoundedLog::open(state.at("console.log"), LONGEST_LOG),
            allowance: Allowance::new(Instant::now()),
        }
    }

    /// The descriptor to wait for, or how long to wait before it may be read again.
    pub fn source(&mut self) -> Result<Option<BorrowedFd<'_>>, Duration> {
        match self.allowance.wait(Instant::now()) {
            Some(time) if self.source.is_some() => Err(time),
            _ => Ok(self.source.as_ref().map(AsFd::as_fd)),
        }
    }

    /// Copies what can be read now and may be.
    pub fn drain(&mut self) {
        let most = self.allowance.at(Instant::now());
        let taken = self.copy(most);
        self.allowance.take(taken);
    }

    /// Copies the last words of a guest that has ended, at most the length of a log.
    pub fn drain_last(&mut self) {
        self.copy(LONGEST_LOG);
    }

    /// Copies what can be read now, about `most` bytes of it. Returns how many it were.
    fn copy(&mut self, most: u64) -> u64 {
        let Some(source) = &self.source else { return 0 };
        let mut taken = 0;
        let mut buffer = [0; 16 << 10];
        while taken < most {
            let Ok(count @ 1..) = rustix::io::read(source, &mut buffer) else {
                break;
            };
            self.log.append(&buffer[..count]);
            taken += count as u64;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Allowance, BURST, LEAST, RATE};

    #[test]
    fn a_console_is_read_at_a_rate_after_a_burst() {
        let begun = Instant::now();
        let mut allowance = Allowance::new(begun);
        assert_eq!(allowance.at(begun), BURST);
        assert_eq!(allowance.wait(begun), None);
        allowance.take(BURST);
        let wait = allowance.wait(begun).unwrap();
        assert!(wait > Duration::from_millis(10) && wait < Duration::from_millis(200));
        assert!(allowance.at(begun + wait) >= LEAST);
        assert_eq!(allowance.wait(begun + wait), None);
        allowance.take(u64::MAX);
        let later = begun + wait + Duration::from_secs(2);
        assert_eq!(allowance.at(later), 2 * RATE);
        let much_later = later + Duration::from_hours(1);
        assert_eq!(allowance.at(much_later), BURST);
    }
}
