//! Groups files by the metadata that files of one identity must have in common, so that only files
//! with a possible twin are ever read.

use std::ops::Range;

use rayon::slice::ParallelSliceMut;

use crate::identity::Mtime;
use crate::scan::FileRecord;
use crate::sys::stamp::{Stamp, Timestamp};

/// What two files must agree in before either is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    size: u64,
    mtime: Timestamp,
    mode: u16,
    owner: u32,
    group: u32,
}

impl Key {
    /// The key of an inode.
    #[must_use]
    pub fn of(stamp: &Stamp, mtime: Mtime) -> Self {
        Self {
            size: stamp.size,
            mtime: match mtime {
                Mtime::Kept => stamp.mtime,
                Mtime::Ignored => Timestamp::default(),
            },
            mode: stamp.mode,
            owner: stamp.owner,
            group: stamp.group,
        }
    }
}

/// Sorts files by key, within it by inode, and within that by directory, which is by guest.
pub fn sort(files: &mut [FileRecord], mtime: Mtime) {
    files.par_sort_unstable_by_key(|file| {
        (
            Key::of(&file.stamp, mtime),
            file.stamp.inode,
            file.directory,
        )
    });
}

/// The runs of sorted files that have one key.
pub fn groups(files: &[FileRecord], mtime: Mtime) -> impl Iterator<Item = Range<usize>> {
    runs(files, move |file| Key::of(&file.stamp, mtime))
}

/// The names of each inode among files of one group.
pub fn inodes(files: &[FileRecord]) -> impl Iterator<Item = &[FileRecord]> {
    files.chunk_by(|one, other| one.stamp.inode == other.stamp.inode)
}

fn runs<'a, K: PartialEq>(
    files: &'a [FileRecord],
    key: impl Fn(&FileRecord) -> K + 'a,
) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut start = 0;
    files
        .chunk_by(move |one, other| key(one) == key(other))
        .map(move |run| {
            let range = start..start + run.len();
            start = range.end;
            range
        })
}
