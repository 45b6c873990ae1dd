//! Lets this process lock objects and set their flags.

use aya::maps::MapError;
use vhashify_sys::procfs;

use super::error::GuardError;
use super::pins;

/// As in `guard.bpf.c`.
const TRIES_THE_GUARD: u64 = 1 << 63;

/// Lets this process take leases on objects and set their flags, until it is dropped; never write to them.
///
/// The entry names the process by its number and its start time. So a later process with the same number cannot use
/// it, even if this one is killed and leaves it behind.
#[derive(Debug)]
pub struct Permit {
    process: u32,
    /// Whether this one made the entry, and another of the same process did not.
    is_first: bool,
}

impl Permit {
    /// Enters this process among the permitted ones; `None` where no guard is loaded.
    ///
    /// # Errors
    /// [`GuardError`]: the maps of the guard cannot be opened.
    pub fn acquire() -> Result<Option<Self>, GuardError> {
        if !pins::is_loaded()? {
            return Ok(None);
        }
        let began = began()?;
        let process = std::process::id();
        let mut permitted = pins::permitted()?;
        let is_first = permitted.get(&process, 0).ok() != Some(began);
        permitted
            .insert(process, began, 0)
            .map_err(|error| GuardError::refused("permitted", &error))?;
        Ok(Some(Self { process, is_first }))
    }
}

/// Runs `attempts` while this process meets the guard as everybody does, but is not written down among the refused.
///
/// # Errors
/// Those of `attempts`; [`GuardError`]: the permit cannot be put aside.
pub(super) fn without_permit<T>(
    attempts: impl FnOnce() -> Result<T, GuardError>,
) -> Result<T, GuardError> {
    let process = std::process::id();
    let mut permitted = pins::permitted()?;
    let refused = |error: MapError| GuardError::refused("permitted", &error);
    let before = permitted.get(&process, 0).ok();
    let entry = began()? | TRIES_THE_GUARD;
    permitted.insert(process, entry, 0).map_err(refused)?;
    let result = attempts();
    match before {
        Some(began) => permitted.insert(process, began, 0),
        None => permitted.remove(&process),
    }
    .map_err(refused)?;
    result
}

/// When this process began, as the guard counts it.
fn began() -> Result<u64, GuardError> {
    let stat = procfs::stat("self")
        .map_err(|error| GuardError::call("read", &procfs::path("self", "stat"), error))?;
    Ok(stat.began)
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_first
            && let Ok(mut permitted) = pins::permitted()
        {
            // An entry that stays is of no use to any process: see above.
            drop(permitted.remove(&self.process));
        }
    }
}
