//! Lets this process lock objects and set their flags.

use std::path::Path;

use super::error::GuardError;
use super::pins;

/// Where the kernel says when this process began, in hundredths of a second since the machine did.
const SELF: &str = "/proc/self/stat";

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
        let path = Path::new(SELF);
        let began = std::fs::read_to_string(path)
            .and_then(|text| {
                began(&text).ok_or_else(|| std::io::Error::other("it has no field 22"))
            })
            .map_err(|error| GuardError::call("read", path, error))?;
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

/// Field 22 of `proc_pid_stat(5)`. The second one is the program's name, which may hold anything.
fn began(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::began;

    #[test]
    fn the_name_of_a_program_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4321 1 2";
        assert_eq!(began(stat), Some(4321));
        assert_eq!(began("7 (a) S 1"), None);
    }
}
