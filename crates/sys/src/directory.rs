//! What a directory says of itself before anything in it is changed.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags, makedev};
use rustix::io::Result;

use super::stamp::Timestamp;

/// A directory, as far as it matters to whoever replaces names in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// Its filesystem (`st_dev`).
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
    /// When it was made, where the filesystem keeps that.
    pub birth: Option<Timestamp>,
    /// Whether no name in it can be replaced: it is append-only (`chattr +a`), so that it takes names and gives none
    /// back, or immutable (`+i`).
    pub keeps_names: bool,
}

impl Directory {
    /// Looks at an open directory. Of a filesystem that tells no inode flags by `statx(2)`, it gives names back.
    ///
    /// # Errors
    /// What `statx(2)` lists.
    pub fn look(directory: BorrowedFd<'_>) -> Result<Self> {
        let found = rustix::fs::statx(
            directory,
            c"",
            AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC,
            StatxFlags::INO | StatxFlags::BTIME,
        )?;
        let keeping = StatxAttributes::APPEND | StatxAttributes::IMMUTABLE;
        Ok(Self {
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            birth: birth(&found),
            keeps_names: found.stx_attributes.intersects(keeping),
        })
    }
}

/// When an inode was made, where the filesystem keeps that: nobody can change it.
#[must_use]
pub fn birth(found: &Statx) -> Option<Timestamp> {
    let is_known = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    is_known.then(|| found.stx_btime.into())
}
