//! The set of configuration files while it grows, and the limits that keep a hostile database
//! from growing it until the host is out of memory or time.

use std::collections::BTreeSet;

/// A database asks for more than any real one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excessive(pub(super) &'static str);

pub(super) const TOO_MANY: Excessive =
    Excessive("it names more configuration files than any real guest has");

// A large desktop has a few thousand configuration files. Repetitions count too: a database that
// names one file over and over costs time as well.
pub(super) const MOST_FILES: usize = 1_000_000;
const MOST_BYTES: usize = 128 << 20;
/// Steps of pattern matching; some seconds' worth.
pub(super) const MOST_WORK: u64 = 4_000_000_000;
/// The kernel takes no longer path, so no file has one.
const LONGEST_PATH: usize = 4095;

#[derive(Debug, Default)]
pub(super) struct Found {
    files: BTreeSet<Vec<u8>>,
    count: usize,
    bytes: usize,
    work: u64,
}

impl Found {
    /// Adds the file whose path is the concatenation of `parts`. A leading `/` is supplied where
    /// it is missing; a path that no file can have is passed over.
    pub(super) fn add(&mut self, parts: &[&[u8]]) -> Result<(), Excessive> {
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

    /// Accounts for `steps` of work that the guest's data asked for.
    pub(super) fn spend(&mut self, steps: u64) -> Result<(), Excessive> {
        self.work = self.work.saturating_add(steps);
        if self.work > MOST_WORK {
            return Err(Excessive("its patterns would take too long to match"));
        }
        Ok(())
    }

    pub(super) fn into_files(self) -> BTreeSet<Vec<u8>> {
        self.files
    }
}
