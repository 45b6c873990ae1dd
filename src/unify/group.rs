//! Groups files by the metadata that files of one identity must have in common, so that only files
//! with a possible twin are ever read.

use std::ops::Range;

use rayon::slice::ParallelSliceMut;
use vhashify_sys::stamp::{Stamp, Timestamp};

use crate::identity::Mtime;
use crate::scan::{FileRecord, Scan};

/// What two files must agree in before either is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    size: u64,
    mtime: Timestamp,
    /// Mode, owner and group.
    permissions: u32,
}

impl Key {
    /// The key of a file.
    #[must_use]
    pub fn of(file: &FileRecord, mtime: Mtime) -> Self {
        Self::new(file.size(), file.mtime(), file.permissions(), mtime)
    }

    /// The key that files of `scan` have which agree with the inode `stamp`; `None` where no file has
    /// its mode, owner and group.
    #[must_use]
    pub fn in_scan(scan: &Scan, stamp: &Stamp, mtime: Mtime) -> Option<Self> {
        let permissions = scan.permissions_of(stamp)?;
        Some(Self::new(stamp.size, stamp.mtime, permissions, mtime))
    }

    fn new(size: u64, time: Timestamp, permissions: u32, mtime: Mtime) -> Self {
        let mtime = match mtime {
            Mtime::Kept => time,
            Mtime::Ignored => Timestamp::default(),
        };
        Self {
            size,
            mtime,
            permissions,
        }
    }
}

/// Sorts files by key, within it by inode, and within that by directory, which is by guest.
pub fn sort(files: &mut [FileRecord], mtime: Mtime) {
    files.par_sort_unstable_by_key(|file| (Key::of(file, mtime), file.inode(), file.directory));
}

/// The runs of sorted files that have one key.
pub fn groups(files: &[FileRecord], mtime: Mtime) -> impl Iterator<Item = Range<usize>> {
    runs(files, move |file| Key::of(file, mtime))
}

/// The names of each inode among files of one group.
pub fn inodes(files: &[FileRecord]) -> impl Iterator<Item = &[FileRecord]> {
    files.chunk_by(|one, other| one.inode() == other.inode())
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
