//! Where a guest's init writes: a pipe, or a terminal where init boots a whole system, as systemd
//! expects. Either way it ends in a log.
//!
//! A pipe has a name in the state directory, so that the successor of a monitor that died goes on reading
//! it. A terminal ends with the monitor that holds it: from then on the guest has no console.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::error::Doing;
use super::{LifecycleError, StateDirectory};

/// How long a console log may grow before it becomes `console.log.1`.
const LONGEST_LOG: u64 = 1 << 20;

/// A console as it is made for a new guest.
#[derive(Debug)]
pub struct Console {
    /// The end that the monitor keeps open as long as the guest runs, and reads.
    pub kept: OwnedFd,
    /// The end that is init's standard output.
    pub of_init: OwnedFd,
    /// The host's name of a terminal.
    pub terminal: Option<PathBuf>,
}

impl Console {
    /// Makes the pipe. Each descriptor is for reading and writing, so that the guest can write while no monitor lives.
    pub fn pipe(state: &StateDirectory) -> Result<Self, LifecycleError> {
        let path = state.at("console");
        drop(fs::remove_file(&path));
        let mode = Mode::RUSR | Mode::WUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).doing("mkfifo", &path)?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let kept = rustix::fs::open(&path, flags, Mode::empty()).doing("open", &path)?;
        let of_init = kept.try_clone().doing("dup", &path)?;
        Ok(Self {
            kept,
            of_init,
            terminal: None,
        })
    }

    /// Makes a terminal, in which nothing is changed on its way to the log.
    pub fn terminal() -> Result<Self, LifecycleError> {
        let path = Path::new("/dev/ptmx");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let kept = openpt(flags).doing("open", path)?;
        unlockpt(&kept).doing("unlockpt", path)?;
        let of_init = ioctl_tiocgptpeer(&kept, flags).doing("open", path)?;
        let mut raw = tcgetattr(&of_init).doing("tcgetattr", path)?;
        raw.make_raw();
        tcsetattr(&of_init, OptionalActions::Now, &raw).doing("tcsetattr", path)?;
        let name = ptsname(&kept, Vec::new()).doing("ptsname", path)?;
        let name = PathBuf::from(name.to_string_lossy().into_owned());
        Ok(Self {
            kept,
            of_init,
            terminal: Some(name),
        })
    }
}

/// A console as it is read.
#[derive(Debug)]
pub struct Watched {
    from: Option<OwnedFd>,
    /// Keeps the guest's end open: without, poll(2) reports a hang-up at once and for ever.
    _other_end: Option<OwnedFd>,
    log: Log,
}

impl Watched {
    /// The terminal that is this process's standard input, else the pipe.
    pub fn open(state: &StateDirectory) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let other_end = ioctl_tiocgptpeer(rustix::stdio::stdin(), flags).ok();
        let from = if other_end.is_some() {
            let own = rustix::stdio::stdin().try_clone_to_owned().ok();
            own.filter(|own| fcntl_setfl(own, OFlags::RDWR | OFlags::NONBLOCK).is_ok())
        } else {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::open(state.at("console"), flags, Mode::empty()).ok()
        };
        Self {
            from,
            _other_end: other_end,
            log: Log::open(state),
        }
    }

    /// The descriptor to wait for.
    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.from.as_ref().map(AsFd::as_fd)
    }

    /// Copies what can be read now into the log, at most a log's length, so that the caller notices the guest's end.
    pub fn drain(&mut self) {
        let Some(from) = &self.from else { return };
        let mut taken = 0;
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = rustix::io::read(from, &mut buffer) {
            self.log.append(&buffer[..count]);
            taken += count as u64;
            if taken > LONGEST_LOG {
                return;
            }
        }
    }
}

/// The console log: two files, so that a guest that talks without end fills no disk.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    older: PathBuf,
    file: Option<File>,
    length: u64,
}

impl Log {
    fn open(state: &StateDirectory) -> Self {
        let path = state.at("console.log");
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .ok();
        let length = file.as_ref().and_then(|file| file.metadata().ok());
        Self {
            older: state.at("console.log.1"),
            length: length.map_or(0, |found| found.len()),
            path,
            file,
        }
    }

    /// A log that cannot be written is no reason to end a guest.
    fn append(&mut self, bytes: &[u8]) {
        if self.length + bytes.len() as u64 > LONGEST_LOG {
            drop(fs::rename(&self.path, &self.older));
            self.file = File::create(&self.path).ok();
            self.length = 0;
        }
        if let Some(file) = &mut self.file {
            drop(file.write_all(bytes));
        }
        self.length += bytes.len() as u64;
    }
}
