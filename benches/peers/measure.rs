//! One command: how long it takes, what of the processor and of memory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::note;
use crate::place::remove;
use crate::userland::copy;

/// GNU time. Not `wait4` on a child of our own: a child begins as a copy of its parent, so that its
/// peak would be this program's.
pub const TIME: &str = "/usr/bin/time";

/// What was measured of one command.
#[derive(Clone, Copy, Serialize)]
pub struct Measure {
    /// In which round.
    pub round: usize,
    /// From beginning to end.
    pub seconds: f64,
    /// Of all its threads and children, in the kernel and out of it.
    pub processor_seconds: f64,
    /// The most memory that it had at once, mapped files among it.
    pub peak_bytes: f64,
}

/// Guests for one tool, and a place beside them; dropping it removes it.
pub struct Fresh {
    /// Where all of it is.
    pub place: PathBuf,
    /// The guests.
    pub guests: PathBuf,
}

impl Fresh {
    /// Copies the guests in `pristine`.
    pub fn copy(place: &Path, pristine: &Path) -> Result<Self> {
        let place = place.join("fresh");
        let guests = place.join("guests");
        fs::create_dir(&place)?;
        let fresh = Self { place, guests };
        copy(pristine, &fresh.guests)?;
        fs::create_dir(fresh.place.join("hash"))?;
        Ok(fresh)
    }

    /// An empty place with the guests that stand elsewhere, for commands that change nothing of them.
    pub fn beside(place: &Path, guests: &Path) -> Result<Self> {
        let place = place.join("fresh");
        let guests = guests.to_path_buf();
        fs::create_dir(&place)?;
        let fresh = Self { place, guests };
        fs::create_dir(fresh.place.join("hash"))?;
        Ok(fresh)
    }

    /// The guest whose name sorts last.
    fn newest(&self) -> Result<OsString> {
        let names = fs::read_dir(&self.guests)?.map(|entry| Ok(entry?.file_name()));
        let names: Vec<OsString> = names.collect::<std::io::Result<_>>()?;
        names.into_iter().max().context("no guest")
    }

    /// Runs a command line of a tool, and returns what it printed, too.
    pub fn measure(&self, line: &str, round: usize) -> Result<(Measure, Vec<u8>)> {
        // What the copying and the run before left to be written is not this command's work.
        rustix::fs::syncfs(File::open(&self.place)?)?;
        let usage = self.place.join("usage");
        let printed = self.place.join("printed");
        let mut command = Command::new(TIME);
        command
            .args(["--quiet", "--format", "%U %S %M", "--output"])
            .arg(&usage)
            .args(["sh", "-c", line])
            .env("GUESTS", &self.guests)
            .env("PLACE", &self.place)
            .env("NEWEST", self.newest()?)
            .env("VHASHIFY", env!("CARGO_BIN_EXE_vhashify"))
            .env("BENCH", std::env::current_exe()?)
            .current_dir(&self.place)
            .stdin(Stdio::null())
            .stdout(File::create(&printed)?)
            .stderr(File::create(self.place.join("complaints"))?);
        let began = Instant::now();
        let status = command.status().context(TIME)?;
        let seconds = began.elapsed().as_secs_f64();
        if !status.success() {
            let complaints = fs::read_to_string(self.place.join("complaints"))?;
            bail!("{line}: {status}\n{complaints}");
        }
        let usage = fs::read_to_string(usage)?;
        let usage: Vec<f64> = usage
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let &[user, system, peak] = usage.as_slice() else {
            bail!("{TIME}: {usage:?}");
        };
        let measure = Measure {
            round,
            seconds,
            processor_seconds: user + system,
            peak_bytes: peak * 1024.0,
        };
        Ok((measure, fs::read(printed)?))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.place) {
            note(&format!("{error:#}"));
        }
    }
}
