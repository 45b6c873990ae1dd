//! The state directory of a guest, and its lock.
//!
//! The starter writes `guest.json` before the guest has its first process, and the monitor removes it when nothing
//! of the guest is left. Whether it is still true, only [`observe`](super::observe) checks.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vhashify_config::running::{Ended, Running};

use super::LifecycleError;
use super::error::Doing;

/// The state directory of one guest.
#[derive(Debug, Clone)]
pub struct StateDirectory {
    name: String,
    path: PathBuf,
}

/// The right to start or stop a guest while this value lives.
#[derive(Debug)]
pub struct Lock {
    _held: File,
}

impl StateDirectory {
    /// The state directory of the guest `name` below `top`; it need not exist.
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

    /// The path `below` in it.
    #[must_use]
    pub fn at(&self, below: &str) -> PathBuf {
        self.path.join(below)
    }

    /// The directory that holds those of all guests.
    #[must_use]
    pub fn top(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Makes the directory and takes the lock.
    ///
    /// # Errors
    /// [`LifecycleError::Busy`] when another command has the lock.
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

    /// What `guest.json` says; it may be outdated.
    pub(super) fn running(&self) -> Result<Option<Running>, LifecycleError> {
        self.read("guest.json")
    }

    /// How the guest ended last time.
    pub(super) fn ended(&self) -> Result<Option<Ended>, LifecycleError> {
        self.read("last.json")
    }

    /// Writes `guest.json`, atomically.
    pub(super) fn write_running(&self, running: &Running) -> Result<(), LifecycleError> {
        self.write("guest.json", running)
    }

    /// Writes how the guest ended, removes the files that only a running guest has, and `guest.json` last.
    pub(super) fn write_ended(&self, ended: Ended) -> Result<(), LifecycleError> {
        for below in ["container/guest", "container", "bundle/rootfs", "bundle"] {
            let path = self.at(below);
            remove_flat(&path).doing("rmdir", &path)?;
        }
        drop(fs::remove_file(self.at("console")));
        drop(fs::remove_file(self.at("broker")));
        self.write("last.json", &ended)?;
        let path = self.at("guest.json");
        fs::remove_file(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error).doing("unlink", &path),
        })
    }

    pub(super) fn read<T: for<'a> Deserialize<'a>>(
        &self,
        below: &str,
    ) -> Result<Option<T>, LifecycleError> {
        let path = self.at(below);
        match fs::read(&path) {
            // A file that does not parse is from another version, and counts as missing.
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

    pub(super) fn write(&self, below: &str, value: &impl Serialize) -> Result<(), LifecycleError> {
        let path = self.at(below);
        let new = self.at(&format!("{below}.{}", std::process::id()));
        let text = serde_json::to_vec(value).unwrap_or_default();
        fs::write(&new, text).doing("write", &new)?;
        fs::rename(&new, &path).doing("rename", &path)
    }
}

/// Removes a directory and the files directly in it.
///
/// In a monitor's mount namespace the guest's whole root directory is mounted below the state
/// directory, so this never descends: a directory that holds another one, or on which something is mounted, stays
/// and is an error.
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

/// The guests that have a `guest.json` below `top`, sorted by name.
#[must_use]
pub fn recorded_guests(top: &Path) -> Vec<StateDirectory> {
    let mut names: Vec<String> = fs::read_dir(top)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("guest.json").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
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
