//! Real guests that differ a little, and what they amount to.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use walkdir::WalkDir;

use crate::note;
use crate::userland::{self, copy};

/// Makes `count` guests in `pristine`: each userland twice, or once where the number is odd. The
/// first two are the real guests; later ones are these with one file in 32 changed.
pub fn make(pristine: &Path, count: usize) -> Result<()> {
    let source = userland::built()?;
    note(&format!("Making {count} guests"));
    fs::create_dir(pristine)?;
    let userlands = count.div_ceil(2);
    for number in 0..count {
        let userland = number % userlands;
        let guest = pristine.join(format!("{number:02}"));
        copy(&source.join(["alpha", "beta"][userland % 2]), &guest)?;
        if userland >= 2 {
            vary(&guest, userland)?;
        }
    }
    Ok(())
}

/// Touches one file in 64 and appends to another one in 64: the same ones, in the same way, in
/// every copy of a userland.
fn vary(guest: &Path, userland: usize) -> Result<()> {
    for entry in WalkDir::new(guest) {
        let entry = entry?;
        let path = entry.path().strip_prefix(guest)?;
        let lot = format!("{userland} {}", path.display());
        let lot = blake3::hash(lot.as_bytes()).as_bytes()[0];
        let metadata = entry.metadata()?;
        if lot >= 8 || !metadata.is_file() || metadata.nlink() > 1 || metadata.len() == 0 {
            continue;
        }
        let mut file = File::options().append(true).open(entry.path())?;
        if lot < 4 {
            writeln!(file, "{userland}")?;
        }
        let then = Duration::from_secs(1_700_000_000 + userland as u64);
        file.set_modified(SystemTime::UNIX_EPOCH + then)?;
    }
    Ok(())
}

/// What guests amount to.
pub struct Extent {
    /// Names of regular files.
    pub files: f64,
    /// Bytes that their inodes have allocated, each counted once.
    pub allocated: f64,
}

impl Extent {
    /// Counts what is below all of `places`.
    pub fn of(places: &[&Path]) -> Result<Self> {
        let (mut files, mut allocated, mut seen) = (0_u64, 0_u64, HashSet::new());
        for entry in places.iter().flat_map(WalkDir::new) {
            let metadata = entry?.metadata()?;
            if metadata.is_file() {
                files += 1;
                if metadata.nlink() == 1 || seen.insert(metadata.ino()) {
                    allocated += 512 * metadata.blocks();
                }
            }
        }
        Ok(Self {
            files: files as f64,
            allocated: allocated as f64,
        })
    }
}
