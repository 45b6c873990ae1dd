//! Proof that a refused command changed nothing, as far as an inode can tell: ctime moves with
//! every change of content, metadata, links or directory entries.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use vhashify_testkit::program::refused;
use vhashify_testkit::snapshot::{Snapshot, paths};

/// All below a directory, as it was.
pub struct Still {
    place: PathBuf,
    snapshot: Snapshot,
    inodes: BTreeMap<PathBuf, (u64, u64, i64, i64)>,
}

impl Still {
    pub fn of(place: &Path) -> Self {
        let inodes = paths(place).into_iter().map(|path| {
            let of = fs::symlink_metadata(&path).unwrap();
            (path, (of.ino(), of.nlink(), of.ctime(), of.ctime_nsec()))
        });
        Self {
            place: place.to_path_buf(),
            snapshot: Snapshot::of(place),
            inodes: inodes.collect(),
        }
    }

    /// Panics if anything is not as it was.
    pub fn assert_untouched(&self, when: &str) {
        let now = Self::of(&self.place);
        self.snapshot.assert_same(&now.snapshot, when);
        for (path, inode) in &self.inodes {
            assert_eq!(
                Some(inode),
                now.inodes.get(path),
                "{when}: {}",
                path.display()
            );
        }
    }
}

/// Runs a command that must refuse with `status` and one line that holds all of `words`, and that
/// must change nothing below `place`. Returns the line.
pub fn refused_untouched(
    place: &Path,
    command: &mut Command,
    status: i32,
    words: &[&str],
) -> String {
    let before = Still::of(place);
    let line = refused(command, status);
    before.assert_untouched(&line);
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
    line
}
