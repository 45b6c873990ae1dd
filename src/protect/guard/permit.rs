//! Lets this process lock objects and set their flags.

use aya::maps::MapError;
use vhashify_sys::procfs;

use super::error::GuardError;
use super::pins;

/// As in `guard.bpf.c`.
const TRIES_THE_GUARD: u64 = 1 << 63;

/// Lets this process take leases on objects and set their flags until it is dropped, but never write to them.
///
/// The entry in the map has the process's number and its start time. So if somebody kills this process and the entry
/// stays, a later process with the same number cannot use it.
#[derive(Debug)]
pub struct Permit {
    process: u32,
    /// Whether this value made the process's entry, and so removes it.
    is_first: bool,
}

impl Permit {
    /// Permits this process; `None` if no guard is loaded.
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

/// Runs `attempts` while the guard treats this process like any other, but records none of its refusals.
///
/// # Errors
/// Those of `attempts`; [`GuardError`]: the permit cannot be suspended.
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

/// The start time of this process, in the guard's unit.
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
            // If that fails, no other process can use the entry: see above.
            drop(permitted.remove(&self.process));
        }
    }
}
