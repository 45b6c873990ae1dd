//! Lets this process lock objects and set their flags.

use vhashify_sys::procfs;

use super::error::GuardError;
use super::pins;

/// Held by a command that takes leases or marks files; taken back when it is dropped.
///
/// It never lets a process write to an object. It names the process by its number and by when it
/// began, so that it is worthless to a later one with the same number, even if this one is killed.
#[derive(Debug)]
pub struct Permit {
    process: u32,
    /// Whether this one made the entry, and another of the same process did not.
    is_first: bool,
}

impl Permit {
    /// Permits this process; `None` where no guard is loaded.
    ///
    /// # Errors
    /// [`GuardError`]: the maps of the guard cannot be opened.
    pub fn acquire() -> Result<Option<Self>, GuardError> {
        if !pins::is_loaded()? {
            return Ok(None);
        }
        let began = procfs::stat("self")
            .map_err(|error| GuardError::call("read", &procfs::path("self", "stat"), error))?
            .began;
        let process = std::process::id();
        let mut permitted = pins::permitted()?;
        let is_first = permitted.get(&process, 0).ok() != Some(began);
        permitted
            .insert(process, began, 0)
            .map_err(|error| GuardError::refused("permitted", &error))?;
        Ok(Some(Self { process, is_first }))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_first
            && let Ok(mut permitted) = pins::permitted()
        {
            // What stays is of no use to anybody: see above.
            drop(permitted.remove(&self.process));
        }
    }
}
