//! What all workers of a run look at, and what it knows of the objects in the store.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::io::Errno;

use super::census::Census;
use crate::error::{Call as _, Error};
use crate::exclude::Rules;
use crate::guest::Guest;
use crate::identity::{Identity, Mtime};
use crate::index;
use crate::protect::{Protection, Reflink};
use crate::report::Progress;
use crate::scan::{FileRecord, GuestId, Scan};
use crate::store::{ObjectName, Store, StoreLock};
use crate::sys::beneath;
use crate::sys::stamp::{Stamp, Timestamp};

/// One guest that takes part.
#[derive(Debug)]
pub struct Source {
    /// The guest.
    pub guest: Guest,
    /// What of it is left out.
    pub rules: Rules,
}

/// An object as a run knows it.
#[derive(Debug, Clone, Copy)]
pub struct ObjectState {
    /// Its name.
    pub name: ObjectName,
    /// Its inode, as it was when the run began.
    pub stamp: Stamp,
    /// Its inode when its content was last known to be what the name says.
    pub proven: Option<Stamp>,
}

/// What all workers of a run look at.
pub struct Shared<'a> {
    /// The store.
    pub store: &'a Store,
    /// The right to change it.
    pub lock: &'a StoreLock,
    /// What objects are put under.
    pub protection: &'a dyn Protection,
    /// Set where guests share extents and no inodes.
    pub reflink: Option<Reflink>,
    /// What was found in the guests.
    pub scan: &'a Scan,
    /// Whether mtime is part of the identity.
    pub mtime: Mtime,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
    /// The most links that an inode of this filesystem can have.
    pub most_links: u64,
    /// What was written before this is on the disk.
    pub synchronised: Timestamp,
    /// Who hears how far it is.
    pub progress: &'a dyn Progress,
    /// The guests and what of them is left out.
    pub sources: &'a [Source],
    /// Every object, by its inode.
    pub objects: HashMap<u64, ObjectState>,
    /// What earlier runs read in files that stay private, by inode.
    pub read: &'a HashMap<u64, (Stamp, Identity)>,
    /// Where on the disk earlier runs have put shared extents of these, by inode.
    pub extents: &'a HashMap<u64, u64>,
    /// When the run began.
    pub began: Timestamp,
    /// Who links objects in places that were not scanned.
    pub census: OnceLock<Census>,
}

impl fmt::Debug for Shared<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shared")
            .field("store", &self.store.path())
            .finish_non_exhaustive()
    }
}

impl Shared<'_> {
    /// One of the guests.
    #[must_use]
    pub fn guest(&self, guest: GuestId) -> &Guest {
        &self.sources[usize::from(guest)].guest
    }

    /// The object that an inode is, if it is one.
    #[must_use]
    pub fn object_of(&self, inode: u64) -> Option<&ObjectState> {
        self.objects.get(&inode)
    }

    /// A file's path on the host, for messages.
    #[must_use]
    pub fn host_path(&self, file: &FileRecord) -> PathBuf {
        self.guest(self.scan.guest_of(file.directory))
            .path_of(&self.scan.path_of(file))
    }

    /// Opens a directory that the scan found.
    ///
    /// # Errors
    /// As [`beneath::open_directory`].
    pub fn open(&self, directory: u32) -> Result<OwnedFd, Errno> {
        let guest = self.guest(self.scan.guest_of(directory));
        let path = self.scan.directory_path(directory);
        beneath::open_directory(guest.root.as_fd(), &path)
    }

    /// What an earlier run read in a file that has not changed since.
    #[must_use]
    pub fn remembered(&self, stamp: &Stamp) -> Option<Identity> {
        let (then, identity) = self.read.get(&stamp.inode)?;
        (then.is_unchanged_since(stamp) && identity.mtime == self.mtime).then_some(*identity)
    }

    /// Where on the disk an earlier run has put the extents of a file that has not changed since.
    #[must_use]
    pub fn remembered_extents(&self, stamp: &Stamp) -> Option<u64> {
        self.remembered(stamp)?;
        self.extents.get(&stamp.inode).copied()
    }

    /// Whether the next run may rely on what this one reads under `stamp`.
    #[must_use]
    pub fn may_be_remembered(&self, stamp: &Stamp) -> bool {
        index::may_be_remembered(stamp, self.began)
    }

    /// Who links objects in places that were not scanned; found out when first asked for.
    pub fn census(&self) -> &Census {
        self.census.get_or_init(|| {
            let guests: Vec<&Guest> = self.sources.iter().map(|source| &source.guest).collect();
            let wanted: HashSet<u64> = self.objects.keys().copied().collect();
            Census::take(&guests, &wanted)
        })
    }
}

/// Every object by its inode.
#[must_use]
pub fn know_objects(
    listed: Vec<(ObjectName, Stamp)>,
    loaded: &HashMap<ObjectName, Stamp>,
) -> HashMap<u64, ObjectState> {
    let known = listed.into_iter().map(|(name, stamp)| {
        let proven = loaded.get(&name);
        let proven = proven.filter(|proven| proven.inode == stamp.inode).copied();
        let state = ObjectState {
            name,
            stamp,
            proven,
        };
        (stamp.inode, state)
    });
    known.collect()
}

/// Those of the objects that no scanned guest links.
#[must_use]
pub fn unseen(objects: &HashMap<u64, ObjectState>, scan: &Scan) -> Vec<ObjectState> {
    let seen: HashSet<u64> = scan
        .files
        .iter()
        .map(FileRecord::inode)
        .filter(|inode| objects.contains_key(inode))
        .collect();
    let unseen = objects.values();
    unseen
        .filter(|state| !seen.contains(&state.stamp.inode))
        .copied()
        .collect()
}

/// The most links that an inode can have, by filesystem.
///
/// # Errors
/// What `fstatfs(2)` lists.
pub fn most_links(store: &Store) -> Result<u64, Error> {
    const EXT4: u64 = 0xEF53;
    const BTRFS: u64 = 0x9123_683E;
    let found = rustix::fs::fstatfs(store.directory()).call("fstatfs", store.path())?;
    Ok(match u64::try_from(found.f_type).unwrap_or(0) {
        // EXT4_LINK_MAX (fs/ext4/ext4.h) and BTRFS_LINK_MAX (fs/btrfs/btrfs_tree.h).
        EXT4 => 65_000,
        BTRFS => 65_535,
        // XFS_MAXLINK (fs/xfs/libxfs/xfs_format.h), and whoever has fewer answers EMLINK.
        _ => (1 << 31) - 1,
    })
}
