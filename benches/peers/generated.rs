//! Guests of many small files, nine of ten the same in each guest.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rayon::iter::{IntoParallelIterator as _, ParallelIterator as _};

/// Files in one directory.
const FILES_IN_DIRECTORY: usize = 50;

/// Makes `guests` guests in `place`, which have `files` files together. One file of ten differs from
/// guest to guest, but not in anything that its inode shows, so that only its content tells.
pub fn make(place: &Path, files: usize, guests: usize) -> Result<()> {
    fs::create_dir_all(place)?;
    let each = files / guests;
    (0..guests).into_par_iter().try_for_each(|guest| {
        let root = place.join(format!("{guest:03}"));
        for first in (0..each).step_by(FILES_IN_DIRECTORY) {
            let number = first / FILES_IN_DIRECTORY;
            let directory = root.join(format!("usr/share/package-{}/{number}", number % 97));
            fs::create_dir_all(&directory)?;
            for file in first..each.min(first + FILES_IN_DIRECTORY) {
                write(
                    &directory.join(format!("some-file-{file}.dat")),
                    file,
                    guest,
                )?;
            }
        }
        Ok(())
    })
}

fn write(path: &Path, number: usize, guest: usize) -> Result<()> {
    let mut content = if number.is_multiple_of(10) {
        format!("file {number} of guest {guest:03}\n")
    } else {
        format!("file {number}, in every guest the same\n")
    }
    .into_bytes();
    // All sizes up to a block, in an order that does not grow.
    content.resize(64 + number * 7919 % 4000, b'.');
    let mut file = File::create_new(path)?;
    file.write_all(&content)?;
    let then = Duration::from_secs(1_700_000_000 + number as u64 / 20);
    file.set_modified(SystemTime::UNIX_EPOCH + then)?;
    Ok(())
}
