//! The work directory beside a store, read without the library: its temporary names, and what each of them serves.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A temporary name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemporaryName {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the name that it serves was about to lead to an object, rather than to a copy.
    pub is_of_sharing: bool,
    directory: u64,
    digits: String,
}

impl TemporaryName {
    fn read(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let parts: Vec<&str> = name.split('-').collect();
        let [purpose @ ("share" | "own"), directory, _, _, digits] = parts[..] else {
            return None;
        };
        Some(Self {
            is_of_sharing: purpose == "share",
            directory: u64::from_str_radix(directory, 16).ok()?,
            digits: digits.to_owned(),
            path,
        })
    }

    /// Whether it serves the name at `path`, which may have been removed.
    pub fn serves(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default();
        let digest = blake3::hash(name.as_encoded_bytes()).to_hex();
        let parent = path.parent().and_then(|parent| fs::metadata(parent).ok());
        parent.is_some_and(|parent| parent.ino() == self.directory) && self.digits == digest[..32]
    }
}

/// The work directory of a store.
pub fn work_directory(store: &Path) -> PathBuf {
    let inode = fs::metadata(store).unwrap().ino();
    store.with_file_name(format!(".vhashify-work-{inode}"))
}

/// The temporary names that are there now; a run may be under way.
pub fn temporary_names(store: &Path) -> Vec<TemporaryName> {
    let entries = |directory: &Path| {
        let read = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let subdirectories = entries(&work_directory(store)).into_iter();
    let all = subdirectories.flat_map(|subdirectory| entries(&subdirectory));
    all.filter_map(TemporaryName::read).collect()
}

/// Panics where a run or a break has left something.
pub fn assert_tidy(store: &Path, when: &str) {
    let left = temporary_names(store);
    assert!(left.is_empty(), "{when}: {left:?}");
}
