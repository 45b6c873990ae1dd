//! The set of configuration files, and the limits that keep a hostile database from using up the host's memory or
//! time while it grows.

use std::collections::BTreeSet;

/// Why a database counts as hostile: it needs more memory or time than any real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Excessive(pub(crate) &'static str);

pub(crate) const TOO_MANY: Excessive =
    Excessive("it names more configuration files than any real guest has");

// A large desktop has a few thousand configuration files. A file counts as often as a database names it,
// because each time costs time.
pub(crate) const MOST_FILES: usize = 1_000_000;
const MOST_BYTES: usize = 128 << 20;
/// Steps of pattern matching: some seconds.
pub(crate) const MOST_WORK: u64 = 4_000_000_000;
/// The kernel accepts no longer path (`PATH_MAX` without its NUL).
const LONGEST_PATH: usize = 4095;

/// The paths so far, and the memory and work that they took.
#[derive(Debug, Default)]
pub(crate) struct ConfigurationFiles {
    files: BTreeSet<Vec<u8>>,
    count: usize,
    bytes: usize,
    work: u64,
}

impl ConfigurationFiles {
    /// Adds the file whose path is the concatenation of `parts`, with a leading `/` where it is missing. Passes over a
    /// path that no file can have.
    pub(crate) fn add(&mut self, parts: &[&[u8]]) -> Result<(), Excessive> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        if length == 0 || length >= LONGEST_PATH {
            return Ok(());
        }
        self.count += 1;
        self.bytes += length;
        if self.count > MOST_FILES || self.bytes > MOST_BYTES {
            return Err(TOO_MANY);
        }
        let mut path = Vec::with_capacity(length + 1);
        if parts.iter().find_map(|part| part.first()) != Some(&b'/') {
            path.push(b'/');
        }
        for part in parts {
            path.extend_from_slice(part);
        }
        if !path.contains(&0) && !path.ends_with(b"/") {
            self.files.insert(path);
        }
        Ok(())
    }

    /// Counts `steps` of work that the guest's data causes.
    pub(crate) fn spend(&mut self, steps: u64) -> Result<(), Excessive> {
        self.work = self.work.saturating_add(steps);
        if self.work > MOST_WORK {
            return Err(Excessive("its patterns would take too long to match"));
        }
        Ok(())
    }

    pub(crate) fn into_files(self) -> BTreeSet<Vec<u8>> {
        self.files
    }
}
