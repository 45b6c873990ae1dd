//! What all workers of a run look at, and what it knows of the objects in the store.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::io::Errno;
use vhashify_sys::resolve;
use vhashify_sys::stamp::{Stamp, Timestamp, wait_for_next_tick};

use super::fd_budget::FdBudget;
use super::hidden_links::HiddenLinks;
use super::scope::ReferenceMatch;
use crate::error::{Call as _, Error};
use crate::exclude::Rules;
use crate::guest::Guest;
use crate::identity::{Identity, Mtime};
use crate::index;
use crate::outcome::Progress;
use crate::protect::{Protection, Reflink};
use crate::scan::{FileRecord, GuestId, Scan};
use crate::store::{ObjectName, Store, StoreLock};

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
    /// Its inode, as it was before the guests were walked.
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
    /// Set where only files at the same path are shared.
    pub matching: Option<ReferenceMatch>,
    /// Whether mtime is part of the identity.
    pub mtime: Mtime,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
    /// What each worker may keep open.
    pub budget: FdBudget,
    /// The most links that an inode of this filesystem can have.
    pub most_links: u64,
    /// What was written before this is on the disk.
    pub synchronised: Timestamp,
    /// Who hears how far it is.
    pub progress: &'a dyn Progress,
    /// The guests and what of them is left out.
    pub sources: &'a [Source],
    /// Every object.
    pub objects: Objects,
    /// What earlier runs read in files that stay private, by inode.
    pub read: &'a HashMap<u64, (Stamp, Identity)>,
    /// Where on the disk earlier runs have put shared extents of these, by inode.
    pub extents: &'a HashMap<u64, u64>,
    /// When the run began.
    pub began: Timestamp,
    /// Who links objects in places that were not scanned.
    pub hidden_links: OnceLock<HiddenLinks>,
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

    /// Those of a count of names by guest.
    #[must_use]
    pub fn guests(&self, counts: &[(GuestId, u32)]) -> Vec<&Guest> {
        counts.iter().map(|&(guest, _)| self.guest(guest)).collect()
    }

    /// The object that an inode is, if it is one.
    #[must_use]
    pub fn object_of(&self, inode: u64) -> Option<&ObjectState> {
        self.objects.by_inode.get(&inode)
    }

    /// Whether nobody has added, moved or removed a name of the object since before the guests were walked
    /// for them. The link count does not tell: a name that one guest removed makes up for one that another
    /// moved past the walk, to which the object would be given a second time (invariant 3).
    #[must_use]
    pub fn has_names_as_found(&self, object: &ObjectState, now: &Stamp) -> bool {
        let before = &object.stamp;
        // A change in the tick of the last one would not show.
        now.is_unchanged_since(before) && before.ctime < self.objects.looked
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
    /// As [`resolve::open_directory`].
    pub fn open(&self, directory: u32) -> Result<OwnedFd, Errno> {
        let guest = self.guest(self.scan.guest_of(directory));
        let path = self.scan.directory_path(directory);
        resolve::open_directory(guest.root.as_fd(), &path)
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
    pub fn hidden_links(&self) -> &HiddenLinks {
        self.hidden_links.get_or_init(|| {
            let guests: Vec<&Guest> = self.sources.iter().map(|source| &source.guest).collect();
            let wanted: HashSet<u64> = self.objects.by_inode.keys().copied().collect();
            HiddenLinks::take(&guests, &wanted)
        })
    }
}

/// The objects of a store at one moment.
#[derive(Debug)]
pub struct Objects {
    /// Each, by its inode.
    pub by_inode: HashMap<u64, ObjectState>,
    /// When they began to be looked at.
    pub looked: Timestamp,
}

impl Objects {
    /// Looks at all of them. `proven` has their inodes by when they were last known to be what they
    /// should be.
    ///
    /// # Errors
    /// A directory of the store that cannot be read.
    pub fn look(store: &mut Store, proven: &HashMap<ObjectName, Stamp>) -> Result<Self, Error> {
        let now = Timestamp::now();
        let listed = store.look_at_all()?;
        // Changed a moment ago, by a run before this one or by what it mended. Nothing could be said of
        // these ([`Shared::has_names_as_found`]).
        let is_recent = |ctime: Timestamp| ctime >= now && ctime.seconds <= now.seconds + 1;
        let (looked, listed) = if listed.iter().any(|(_, stamp)| is_recent(stamp.ctime)) {
            (wait_for_next_tick(), store.look_at_all()?)
        } else {
            (now, listed)
        };
        let known = listed.into_iter().map(|(name, stamp)| {
            let proven = proven.get(&name);
            let proven = proven.filter(|proven| proven.inode == stamp.inode).copied();
            let state = ObjectState {
                name,
                stamp,
                proven,
            };
            (stamp.inode, state)
        });
        Ok(Self {
            by_inode: known.collect(),
            looked,
        })
    }

    /// Those that no scanned guest links.
    #[must_use]
    pub fn unseen(&self, scan: &Scan) -> Vec<ObjectState> {
        let seen: HashSet<u64> = scan
            .files
            .iter()
            .map(FileRecord::inode)
            .filter(|inode| self.by_inode.contains_key(inode))
            .collect();
        let unseen = self.by_inode.values();
        unseen
            .filter(|state| !seen.contains(&state.stamp.inode))
            .copied()
            .collect()
    }
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
