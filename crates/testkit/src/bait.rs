//! Files that a run would share if it could be led to them, and whether it has touched any.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::snapshot::paths;
use super::tree::{Content, PLAIN, make_file};

/// How many there are in a directory: `file0`, `file1`, …
pub const FILES: u64 = 20;

/// What the file of a number holds in each of these directories.
pub fn content(number: u64) -> Content {
    Content {
        size: 300 + number,
        variant: 0,
    }
}

/// Files that have twins in every directory made by this.
pub fn tempting(directory: &Path) {
    for number in 0..FILES {
        let path = directory.join(format!("file{number}"));
        make_file(&path, content(number), PLAIN);
    }
}

/// What must not change outside of the guests: everything, also inode numbers and link counts.
pub fn outside(directory: &Path) -> Vec<(PathBuf, u64, u64, i64, i64)> {
    let look = |path: PathBuf| {
        let found = fs::symlink_metadata(&path).unwrap();
        let (inode, links) = (found.ino(), found.nlink());
        (path, inode, links, found.ctime(), found.ctime_nsec())
    };
    paths(directory).into_iter().map(look).collect()
}
