//! What one thread of a walk found.

use super::names::Names;
use super::record::PermissionsTable;
use super::{FileRecord, LeftoverName};
use crate::outcome::{FileError, Skipped};

/// What one thread found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) files: Vec<FileRecord>,
    pub(super) names: Names,
    pub(super) permissions: PermissionsTable,
    pub(super) leftovers: Vec<LeftoverName>,
    /// Directories in which no name can be replaced.
    pub(super) keep_names: Vec<u32>,
    /// The directories that were asked for, with their inode numbers.
    pub(super) wanted: Vec<(u64, u32)>,
    /// Directories that a mounted overlay has.
    pub(super) in_overlay: Vec<u32>,
    /// Inodes that somebody uses by another way than by their names.
    pub(super) used: Vec<u64>,
    pub(super) skipped: Skipped,
    pub(super) errors: Vec<FileError>,
    pub(super) files_seen: u64,
    pub(super) bytes_seen: u64,
}

impl Findings {
    /// Reserves addresses, not memory, for the files of a middling host. The allocator maps a piece of this
    /// size by itself, and grows it by moving pages. A vector that grows from nothing is copied from one piece of
    /// the heap to the next, and the pieces left behind count as memory of this process: half as much again.
    pub(super) fn with_room() -> Self {
        const FILES: usize = 1 << 19;
        const NAMES: usize = 48 << 20;
        Self {
            files: Vec::with_capacity(FILES),
            names: Names::with_room(NAMES),
            ..Self::default()
        }
    }
}
