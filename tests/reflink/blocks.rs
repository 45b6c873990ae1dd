//! Where files lie on the disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use vhashify_testkit::filesystem::command;

/// Where a file lies on the disk, as `filefrag` tells it; `None` where it has no blocks.
pub fn blocks(path: &Path) -> Option<Vec<(u64, u64, u64)>> {
    let told = command(Command::new("filefrag").args(["-s", "-v"]).arg(path));
    let extents = told.lines().filter_map(|line| {
        // `   0:        0..      73:         42..       115:     74:             last,shared,eof`
        let (number, rest) = line.split_once(':')?;
        number.trim().parse::<u32>().ok()?;
        let numbers: Vec<u64> = rest
            .split([':', '.'])
            .filter_map(|word| word.trim().parse().ok())
            .collect();
        let has_no_blocks = rest.contains("inline") || rest.contains("delalloc");
        Some((!has_no_blocks).then(|| (numbers[0], numbers[2], numbers[4])))
    });
    let mut merged: Vec<(u64, u64, u64)> = Vec::new();
    for extent in extents {
        let (offset, at, length) = extent?;
        match merged.last_mut() {
            Some(last) if last.0 + last.2 == offset && last.1 + last.2 == at => last.2 += length,
            _ => merged.push((offset, at, length)),
        }
    }
    (!merged.is_empty()).then_some(merged)
}

/// Panics unless all of them lie where the first one does.
pub fn assert_in_one_place(paths: &[PathBuf]) {
    let first = blocks(&paths[0]);
    assert!(first.is_some(), "{} has no blocks", paths[0].display());
    for path in paths {
        assert_eq!(blocks(path), first, "{} lies elsewhere", path.display());
    }
}
