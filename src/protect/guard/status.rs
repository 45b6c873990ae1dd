//! Reads the status of the guard: whether it is loaded, where it guards, and what it refused.

use std::path::Path;

use serde::Serialize;

use super::error::GuardError;
use super::hook::HOOKS;
use super::pins::{self, PLACE};
use super::refusal::Refusal;
use super::{filesystem, hook};

/// The status of the guard.
#[derive(Debug, Default, Serialize)]
pub struct Status {
    /// Whether it is loaded. If not, all else is empty.
    pub loaded: bool,
    /// The filesystems where it enforces marks.
    pub filesystems: Vec<Filesystem>,
    /// Its hooks.
    pub hooks: Vec<HookStatus>,
    /// The last refusals, at most 64, the latest first.
    pub last_refusals: Vec<Refusal>,
}

/// A guarded filesystem.
#[derive(Debug, Serialize)]
pub struct Filesystem {
    /// `MAJOR:MINOR`, as in `/proc/self/mountinfo`.
    pub device: String,
    /// Where it is mounted, as far as this process sees.
    pub mounts: Vec<String>,
}

/// A hook.
#[derive(Debug, Serialize)]
pub struct HookStatus {
    /// The kernel's name for it.
    pub name: &'static str,
    /// Whether a program is attached to it. If not, this kernel does not have the hook.
    pub attached: bool,
    /// Refusals since the guard was loaded.
    pub refusals: u64,
}

/// Reads the status.
///
/// # Errors
/// [`GuardError`]: the guard is loaded, but its maps cannot be read.
pub fn status() -> Result<Status, GuardError> {
    if !pins::is_loaded()? {
        return Ok(Status::default());
    }
    let mounts = filesystem::mounts()?;
    let filesystems = pins::devices()?
        .into_iter()
        .map(|device| Filesystem {
            device: device.to_string(),
            mounts: mounts
                .iter()
                .filter(|mount| mount.device == device)
                .map(|mount| mount.point.clone())
                .collect(),
        })
        .collect();
    Ok(Status {
        loaded: true,
        filesystems,
        hooks: hooks()?,
        last_refusals: last_refusals()?,
    })
}

fn hooks() -> Result<Vec<HookStatus>, GuardError> {
    let counters = pins::counters()?;
    let look = |(number, hook): (u32, hook::Hook)| {
        let counts = counters
            .get(&number, 0)
            .map_err(|error| GuardError::refused("counters", &error))?;
        Ok(HookStatus {
            name: hook.name,
            attached: pins::hook(Path::new(PLACE), &hook).exists(),
            refusals: counts.iter().sum(),
        })
    };
    (0..).zip(HOOKS).map(look).collect()
}

fn last_refusals() -> Result<Vec<Refusal>, GuardError> {
    let mut refusals = Vec::new();
    for words in pins::refusals()?.iter() {
        let words = words.map_err(|error| GuardError::refused("refusals", &error))?;
        refusals.extend(Refusal::read(&words));
    }
    refusals.sort_unstable_by_key(|refusal| std::cmp::Reverse(refusal.number));
    Ok(refusals)
}
