//! Walks vdirs in parallel and yields every regular file that may be unified.
//!
//! `walk` has one task for each directory. A task opens the directory from the vdir's descriptor
//! ([`vhashify_sys::resolve`]), and `directory` reads its names in large batches, asks the exclusion rules, and
//! calls `statx` for what they leave, unless the inode is one of the [`KnownInodes`]. A waiting task holds no
//! descriptor, so a million pending directories cost memory and not descriptors; no file costs an allocation,
//! a lock or a whole path.
//!
//! `record` keeps 60 bytes of each file, and `names` its name, unless a file of another guest has the same one:
//!
//! ```text
//! FileRecord ─ directory ───▶ DirectoryRecord ─ parent ─▶ … ─ parent ─▶ the vdir of a guest
//!     ├─ name ──────────────▶ bytes in one string for all
//!     └─ mode, owner, group ▶ one row for all files that have the same
//! ```

mod directory;
mod findings;
mod names;
mod record;
mod walk;

use crate::exclude::Rules;
use crate::guest::{Guest, InodeUsers};
use std::collections::{HashMap, HashSet};

use crate::outcome::{FileError, Progress, Skip, Skipped};
use vhashify_sys::stamp::Stamp;

pub use crate::relink::names::join;
pub use record::FileRecord;

use names::Names;
use record::{DirectoryRecord, Permissions, PermissionsTable};
use walk::Walk;

/// The position of a guest among those that are scanned together.
pub type GuestId = u16;

/// One guest to be walked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The guest.
    pub guest: &'a Guest,
    /// What of it is left out.
    pub rules: &'a Rules,
}

/// Inodes whose stamps the caller has already, so that the walk calls `statx` for none of their names: after
/// the first run, most of what guests hold. The walk knows them by the inode number that `getdents64` gives
/// beside each name, which identifies an inode on this filesystem only.
pub struct KnownInodes<'a> {
    /// The filesystem (`st_dev`). On Btrfs each subvolume has one, and its own inode numbers.
    pub device: u64,
    /// The stamp of the inode with this number, if it is one of them.
    pub stamp_of: &'a (dyn Fn(u64) -> Option<Stamp> + Sync),
}

/// A temporary name that an interrupted run left behind.
#[derive(Debug, Clone)]
pub struct LeftoverName {
    /// The directory it stands in.
    pub directory: u32,
    /// The name.
    pub name: Vec<u8>,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Scan {
    /// The files, in no particular order.
    pub files: Vec<FileRecord>,
    /// Temporary names of an interrupted run.
    pub leftovers: Vec<LeftoverName>,
    /// Count of entries that were skipped, by reason.
    pub skipped: Skipped,
    /// What could not be read.
    pub errors: Vec<FileError>,
    /// Count of all regular files that no rule excludes.
    pub files_seen: u64,
    /// Bytes of content of these.
    pub bytes_seen: u64,
    /// Directories in which no name can be replaced.
    keep_names: HashSet<u32>,
    /// The directories that were asked for, by their inode numbers.
    wanted: HashMap<u64, u32>,
    /// Directories that a mounted overlay has.
    in_overlay: HashSet<u32>,
    /// Inodes that somebody uses by another way than by their names.
    used: HashSet<u64>,
    directories: Vec<DirectoryRecord>,
    directory_names: Names,
    names: Names,
    permissions: PermissionsTable,
}

impl Scan {
    /// The guest that a directory belongs to.
    #[must_use]
    pub fn guest_of(&self, directory: u32) -> GuestId {
        self.directories[directory as usize].guest
    }

    /// Whether no name in a directory can be replaced: it was append-only or immutable when the walk read it.
    #[must_use]
    pub fn keeps_names(&self, directory: u32) -> bool {
        self.keep_names.contains(&directory)
    }

    /// The directory with this inode number, if [`scan`] was asked for it and found it.
    #[must_use]
    pub fn directory_of_inode(&self, inode: u64) -> Option<u32> {
        self.wanted.get(&inode).copied()
    }

    /// Why nobody may replace the names of an inode, given all of them, where somebody uses it by another way.
    #[must_use]
    pub fn other_use(&self, names: &[FileRecord]) -> Option<Skip> {
        let is_in_overlay = |file: &FileRecord| self.in_overlay.contains(&file.directory);
        let is_used = |file: &FileRecord| self.used.contains(&file.inode());
        if names.iter().any(is_in_overlay) {
            Some(Skip::InOverlay)
        } else {
            names.iter().any(is_used).then_some(Skip::Mounted)
        }
    }

    /// A file's name in its directory.
    #[must_use]
    pub fn name_of(&self, file: &FileRecord) -> &[u8] {
        self.names.get(file.name)
    }

    /// A file's stamp, as the walk saw it.
    #[must_use]
    pub fn stamp_of(&self, file: &FileRecord) -> Stamp {
        file.stamp(self.permissions.get(file.permissions()))
    }

    /// The [`FileRecord::permissions`] of files with the mode, owner and group of `stamp`, if the scan met any.
    #[must_use]
    pub fn permissions_of(&self, stamp: &Stamp) -> Option<u32> {
        self.permissions.find(Permissions::of(stamp))
    }

    /// A directory's path below its vdir, without a leading slash; empty for the vdir itself.
    #[must_use]
    pub fn directory_path(&self, directory: u32) -> Vec<u8> {
        let mut components = Vec::new();
        let mut at = &self.directories[directory as usize];
        while let Some(parent) = at.parent {
            components.push(self.directory_names.get(at.name));
            at = &self.directories[parent as usize];
        }
        components.reverse();
        components.join(b"/".as_slice())
    }

    /// A file's path below its vdir, without a leading slash.
    #[must_use]
    pub fn path_of(&self, file: &FileRecord) -> Vec<u8> {
        join(&self.directory_path(file.directory), self.name_of(file))
    }
}

/// Walks all `requests` on the threads of the current rayon pool, and calls `statx` for every file whose inode
/// is not `known`.
///
/// Files that `users` say somebody uses by another way than by their names are found as others; [`Scan::other_use`] knows
/// them again.
///
/// It notes which directories have the inode numbers `wanted`, which are sorted. Files smaller than `smallest` bytes
/// are skipped. A directory that cannot be read becomes one of
/// [`Scan::errors`], and the walk goes on.
#[must_use]
pub fn scan(
    requests: &[Request<'_>],
    smallest: u64,
    known: Option<&KnownInodes<'_>>,
    users: &InodeUsers,
    wanted: &[u64],
    progress: &dyn Progress,
) -> Scan {
    let walk = Walk::new(requests, smallest, known, users, wanted, progress);
    rayon::scope(|scope| walk.start(scope));
    walk.gather()
}

/// Four thousand million directories, or bytes of names, are beyond any host.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
