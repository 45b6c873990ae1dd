//! What all workers of a run look at, and nothing that any of them could change: what the run asks ([`Question`]), what
//! it knows ([`Known`]), and what it may cost ([`Effort`]). What may be changed is the [`Target`](super::target::Target).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::io::Errno;
use vhashify_sys::resolve;
use vhashify_sys::stamp::{Stamp, Timestamp};

use super::disk_reads::DiskReads;
use super::fd_budget::Workers;
use super::hidden_links::HiddenLinks;
use super::object::Belief;
use super::objects::{ObjectState, Objects};
use super::scope::ReferenceMatch;
use super::source::Source;
use crate::guest::Guest;
use crate::identity::{Identity, Mtime};
use crate::index;
use crate::outcome::Progress;
use crate::protect::Reflink;
use crate::scan::{FileRecord, GuestId, Scan};
use crate::store::Store;

/// What a run asks: which files are to be the same, and in what way. Pure: the same question about the same disk has
/// the same answer in a dry run.
#[derive(Debug)]
pub struct Question {
    /// Whether mtime is part of the identity.
    pub mtime: Mtime,
    /// Set where only files at the same path are shared.
    pub matching: Option<ReferenceMatch>,
    /// Smaller files are left alone; bytes.
    pub smallest: u64,
    /// Set where guests share extents and no inodes.
    pub reflink: Option<Reflink>,
    /// The most links that an inode of this filesystem can have.
    pub most_links: u64,
}

/// What a run knows before it reads the first file.
pub struct Known<'a> {
    /// The guests and what of them is left out.
    pub sources: &'a [Source],
    /// The store. It changes only for who has its lock.
    pub store: &'a Store,
    /// What the walk found in the guests, sorted by group.
    pub scan: Scan,
    /// Every object.
    pub objects: Objects,
    /// What earlier runs read in files that stay private, by inode.
    pub read: HashMap<u64, (Stamp, Identity)>,
    /// Where on the disk the extents begin that earlier runs have shared, by inode of the file.
    pub extents: HashMap<u64, u64>,
    /// When the run began.
    pub began: Timestamp,
    /// Which objects must be read from the disk before a further guest gets them.
    pub disk_reads: DiskReads,
    /// Which guests link objects in places that the walk did not see; empty until somebody asks.
    pub hidden_links: OnceLock<HiddenLinks>,
}

/// What a run may cost, and who hears how far it is.
#[derive(Clone, Copy)]
pub struct Effort<'a> {
    /// The threads, and what each of them may keep open.
    pub workers: Workers,
    /// Who hears how far it is.
    pub progress: &'a dyn Progress,
}

/// All of that.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What is asked.
    pub question: &'a Question,
    /// What is known.
    pub known: &'a Known<'a>,
    /// What it may cost.
    pub effort: &'a Effort<'a>,
}

impl fmt::Debug for Known<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Known")
            .field("store", &self.store.path())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Effort<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Effort")
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

impl Known<'_> {
    /// One of the guests.
    #[must_use]
    pub fn guest(&self, guest: GuestId) -> &Guest {
        &self.sources[usize::from(guest)].guest
    }

    /// The guests of a count of names by guest.
    #[must_use]
    pub fn guests(&self, counts: &[(GuestId, u32)]) -> Vec<&Guest> {
        counts.iter().map(|&(guest, _)| self.guest(guest)).collect()
    }

    /// Count of names by guest. Files of one inode are sorted by directory, not by guest.
    #[must_use]
    pub fn names_by_guest(&self, files: &[FileRecord]) -> Vec<(GuestId, u32)> {
        let mut guests: Vec<(GuestId, u32)> = Vec::with_capacity(1);
        for file in files {
            let guest = self.scan.guest_of(file.directory);
            match guests.iter_mut().find(|(counted, _)| *counted == guest) {
                Some((_, names)) => *names += 1,
                None => guests.push((guest, 1)),
            }
        }
        guests
    }

    /// The object that an inode is, if it is one.
    #[must_use]
    pub fn object_of(&self, inode: u64) -> Option<&ObjectState> {
        self.objects.of(inode)
    }

    /// What makes it unnecessary to read an object before a further guest gets it.
    pub fn belief_in<'b>(&self, object: &'b ObjectState) -> Belief<'b> {
        Belief {
            proven: object.proven.as_ref(),
            is_due: self.disk_reads.is_due(&object.name),
        }
    }

    /// A file's path on the host, for messages.
    #[must_use]
    pub fn host_path(&self, file: &FileRecord) -> PathBuf {
        self.guest(self.scan.guest_of(file.directory))
            .path_of(&self.scan.path_of(file))
    }

    /// Opens a directory that the walk found.
    ///
    /// # Errors
    /// As [`resolve::open_directory`].
    pub fn open(&self, directory: u32) -> Result<OwnedFd, Errno> {
        let guest = self.guest(self.scan.guest_of(directory));
        let path = self.scan.directory_path(directory);
        resolve::open_directory(guest.root.as_fd(), &path)
    }

    /// Whether the next run may rely on what this one reads under `stamp`.
    #[must_use]
    pub fn may_be_remembered(&self, stamp: &Stamp) -> bool {
        index::may_be_remembered(stamp, self.began)
    }

    /// Which guests link objects in places that the walk did not see. The first call walks all guests.
    pub fn hidden_links(&self) -> &HiddenLinks {
        self.hidden_links.get_or_init(|| {
            let guests: Vec<&Guest> = self.sources.iter().map(|source| &source.guest).collect();
            let wanted: HashSet<u64> = self.objects.by_inode.keys().copied().collect();
            HiddenLinks::find(&guests, &wanted)
        })
    }
}

impl View<'_> {
    /// What an earlier run read in a file that has not changed since.
    #[must_use]
    pub fn remembered(&self, stamp: &Stamp) -> Option<Identity> {
        let (then, identity) = self.known.read.get(&stamp.inode)?;
        let is_asked_for = identity.mtime == self.question.mtime;
        (then.is_unchanged_since(stamp) && is_asked_for).then_some(*identity)
    }

    /// Where on the disk an earlier run has put the extents of a file that has not changed since.
    #[must_use]
    pub fn remembered_extents(&self, stamp: &Stamp) -> Option<u64> {
        self.remembered(stamp)?;
        self.known.extents.get(&stamp.inode).copied()
    }
}
