//! What is known about a guest that runs, or ran.
//!
//! `guest.json` is written before the guest has its first process and removed when nothing of it is
//! left. Whoever finds one that is not true any more mends it: see [`StateDirectory::observe`].

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vhashify_config::running::{Ended, Running, boot};
use vhashify_sys::pidfd::Process;

use super::error::Doing;
use super::{LifecycleError, monitor};
use crate::context::cgroup;
use crate::network;

/// How long a guest's monitor may take to tidy up.
const TIDYING: Duration = Duration::from_secs(10);

/// What a look at a guest shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// It does not run.
    Stopped(Option<Ended>),
    /// Its init is being made.
    Starting(Running),
    /// It runs.
    Running(Running, Process),
}

/// The state directory of one guest.
#[derive(Debug, Clone)]
pub struct StateDirectory {
    name: String,
    path: PathBuf,
}

/// The right to start or stop a guest.
#[derive(Debug)]
pub struct Lock {
    _held: File,
}

impl StateDirectory {
    /// The directory of the guest `name` below `top`; it need not exist.
    #[must_use]
    pub fn new(top: &Path, name: &str) -> Self {
        let top = std::path::absolute(top).unwrap_or_else(|_| top.to_path_buf());
        Self {
            name: name.to_owned(),
            path: top.join(name),
        }
    }

    /// The guest's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Something in it.
    #[must_use]
    pub fn at(&self, below: &str) -> PathBuf {
        self.path.join(below)
    }

    /// The directory of all guests.
    #[must_use]
    pub fn top(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Makes it and takes the lock.
    ///
    /// # Errors
    /// [`LifecycleError::Busy`] when another command has it.
    pub fn lock(&self) -> Result<Lock, LifecycleError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.path).doing("mkdir", &self.path)?;
        let path = self.at("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let held = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).doing("open", &path)?;
        match flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _held: held.into() }),
            Err(Errno::WOULDBLOCK) => Err(LifecycleError::Busy {
                name: self.name.clone(),
            }),
            Err(error) => Err(error).doing("flock", &path),
        }
    }

    /// How the guest is, after mending what an untimely death left: a monitor that died gets a
    /// successor, a guest that died with it is tidied away.
    ///
    /// # Errors
    /// The state cannot be read or mended.
    pub fn observe(&self) -> Result<Observed, LifecycleError> {
        let begun = Instant::now();
        loop {
            let Some(running) = self.read::<Running>("guest.json")? else {
                return Ok(Observed::Stopped(self.read("last.json")?));
            };
            let is_watched = running.boot == boot() && running.monitor.is_alive();
            let init = running.init.filter(|_| running.boot == boot());
            match init {
                Some(init) if init.is_alive() => {
                    if !is_watched {
                        monitor::succeed(self, &running, init)?;
                    }
                    return Ok(Observed::Running(running, init));
                }
                None if is_watched => return Ok(Observed::Starting(running)),
                _ if is_watched && begun.elapsed() < TIDYING => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => {
                    let unseen = Ended {
                        status: None,
                        signal: None,
                        at: now(),
                    };
                    self.tidy(&running, unseen)?;
                }
            }
        }
    }

    /// The guest's init.
    ///
    /// # Errors
    /// [`LifecycleError::NotRunning`].
    pub fn running(&self) -> Result<(Running, Process), LifecycleError> {
        match self.observe()? {
            Observed::Running(running, init) => Ok((running, init)),
            Observed::Starting(_) | Observed::Stopped(_) => Err(LifecycleError::NotRunning {
                name: self.name.clone(),
            }),
        }
    }

    /// Writes what is known about the guest, at once and whole.
    pub(super) fn write(&self, running: &Running) -> Result<(), LifecycleError> {
        self.put("guest.json", running)
    }

    /// Removes what is left of a guest whose init is gone: network devices, processes, cgroups, state.
    pub(super) fn tidy(&self, running: &Running, ended: Ended) -> Result<(), LifecycleError> {
        let begun = Instant::now();
        let is_of_this_boot = running.boot == boot();
        if is_of_this_boot {
            network::take_down(running.context).map_err(|reason| LifecycleError::Refused {
                name: self.name.clone(),
                reason,
            })?;
        }
        while is_of_this_boot && !cgroup::remove(running.context) {
            cgroup::kill(running.context);
            for pid in cgroup::processes(running.context) {
                if let Some(process) = Process::find(pid) {
                    process.signal(libc::SIGKILL);
                }
            }
            if begun.elapsed() > TIDYING {
                return Err(LifecycleError::DoesNotEnd {
                    name: self.name.clone(),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for below in ["container/guest", "container", "bundle/rootfs", "bundle"] {
            let path = self.at(below);
            remove_flat(&path).doing("rmdir", &path)?;
        }
        drop(fs::remove_file(self.at("console")));
        drop(fs::remove_file(self.at("broker")));
        self.put("last.json", &ended)?;
        let path = self.at("guest.json");
        fs::remove_file(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error).doing("unlink", &path),
        })
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, below: &str) -> Result<Option<T>, LifecycleError> {
        let path = self.at(below);
        match fs::read(&path) {
            // What cannot be read back was not written by this version; it is as good as none.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).doing("read", &path),
        }
    }

    fn put(&self, below: &str, value: &impl Serialize) -> Result<(), LifecycleError> {
        let path = self.at(below);
        let new = self.at(&format!("{below}.{}", std::process::id()));
        let text = serde_json::to_vec(value).unwrap_or_default();
        fs::write(&new, text).doing("write", &new)?;
        fs::rename(&new, &path).doing("rename", &path)
    }
}

/// Removes a directory and the files in it, and never what is in a directory in it.
///
/// In a monitor's mount namespace the guest's whole root directory is mounted below the state
/// directory. Nothing here ever descends: a directory that is not empty, or has something mounted on
/// it, stays, and is an error.
fn remove_flat(directory: &Path) -> io::Result<()> {
    let is_mounted = directory.ends_with("rootfs");
    let listed = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed?,
    };
    for entry in listed.flatten().filter(|_| !is_mounted) {
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// The guests that have a state directory below `top`, sorted.
#[must_use]
pub fn known(top: &Path) -> Vec<StateDirectory> {
    let mut names: Vec<String> = fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("guest.json").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| OsStr::new(name) != ".")
        .collect();
    names.sort();
    names
        .iter()
        .map(|name| StateDirectory::new(top, name))
        .collect()
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}
