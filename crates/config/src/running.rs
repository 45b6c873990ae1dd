//! What `vserver` writes about each guest that runs, in its state directory.
//!
//! ```text
//! /run/vservers/NAME/guest.json    Running: from before its first process until nothing of it is left
//!                   last.json     Ended: how it ended
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vhashify_sys::call_error::CallError;
use vhashify_sys::pidfd::Process;
use vhashify_sys::procfs::boot_id;

/// A guest that runs, or is being started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its context number.
    pub context: u32,
    /// Its process 1; none as long as it is being made.
    pub init: Option<Process>,
    /// The process that watches it.
    pub monitor: Process,
    /// The process that breaks links for it, if its configuration asks for one: the monitor that it was started with.
    #[serde(default)]
    pub broker: Option<Process>,
    /// Its root directory.
    pub vdir: PathBuf,
    /// When it was started, in seconds since 1970.
    pub since: u64,
    /// The boot that it belongs to.
    pub boot: String,
    /// The configuration tree that it was started from.
    pub config_dir: PathBuf,
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The exit status of its init, if it exited by itself and its monitor saw it.
    pub status: Option<i32>,
    /// The signal that ended its init.
    pub signal: Option<i32>,
    /// When, in seconds since 1970.
    pub at: u64,
}

impl Ended {
    /// The end of a guest that no monitor saw, at some time before `at`.
    #[must_use]
    pub const fn unseen(at: u64) -> Self {
        Self {
            status: None,
            signal: None,
            at,
        }
    }
}

impl Running {
    /// Whether this is the boot that it belongs to. Of an earlier one its process and context numbers may be
    /// somebody else's.
    #[must_use]
    pub fn is_of_this_boot(&self) -> bool {
        self.boot == boot_id()
    }

    /// Whether the guest runs or is being started. Only reads: `vserver` mends the remains of an untimely death.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.is_of_this_boot()
            && (self.monitor.is_alive() || self.init.is_some_and(|init| init.is_alive()))
    }
}

/// The guests that run or are being started, with their names, of the state directory `top`.
///
/// # Errors
/// A file that cannot be read. One that cannot be understood was not written by this version, and is passed over.
pub fn running_guests(top: &Path) -> Result<Vec<(String, Running)>, CallError> {
    let mut guests = Vec::new();
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let path = entry.path().join("guest.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                continue;
            }
            Err(error) => return Err(CallError::new("read", &path, error)),
        };
        let running = serde_json::from_slice::<Running>(&bytes).ok();
        let name = entry.file_name().into_string().ok();
        guests.extend(name.zip(running).filter(|(_, running)| running.is_true()));
    }
    guests.sort_by(|(first, _), (second, _)| first.cmp(second));
    Ok(guests)
}
