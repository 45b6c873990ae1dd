//! Why files are left as they are, and how many for each reason.

use serde::ser::{Serialize, SerializeMap, Serializer};

macro_rules! skips {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a file was left as it is. None of these is an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Skip { $($(#[$doc])* $name,)* }

        impl Skip {
            /// Every reason, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The reason's name in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

skips! {
    /// Left out by a pattern or as a package's configuration file; an excluded directory counts
    /// as one.
    Excluded = "excluded",
    /// No bytes: sharing it saves nothing.
    Empty = "empty",
    /// Smaller than `--min-size`.
    Small = "below-min-size",
    /// A symbolic link, device, socket or FIFO.
    NotRegular = "not-regular",
    /// A mount point in the vdir; never crossed.
    MountPoint = "mount-point",
    /// It has holes: an image or a database that is written in place.
    Sparse = "sparse",
    /// It carries inode flags of its own.
    UnusualFlags = "unusual-flags",
    /// It is setuid, setgid or sticky. Package managers take these bits from a file before they
    /// remove or replace it, so that no other hard link keeps them (`secure_unlink` in dpkg,
    /// `removeSBITS` in rpm): the links of other guests would lose them, and all of their mode with
    /// dpkg, or the upgrade would fail where the inode is protected.
    SpecialBits = "setuid-setgid-or-sticky",
    /// Somebody has it open for writing, or wanted to write to it meanwhile.
    OpenForWriting = "open-for-writing",
    /// Not all of its names are in what was scanned, so that replacing some would split the file.
    LinkedElsewhere = "linked-elsewhere",
    /// One of its names lies in a directory in which no name can be replaced (`chattr +a`, `chattr +i`).
    DirectoryKeepsNames = "append-only-or-immutable-directory",
    /// One of its names lies below the upper or the work directory of a mounted overlay, which would go on with the old
    /// inode. Shared once the overlay is unmounted.
    InOverlay = "in-mounted-overlay",
    /// It is bind-mounted somewhere, or something is mounted over one of its names, or a read-only loop device has it.
    /// Shared once that is unmounted or detached.
    Mounted = "mounted-or-loop-device",
    /// It changed, moved or vanished while the run looked at it.
    Changed = "changed-meanwhile",
    /// The object that it would link vanished from the store meanwhile.
    ObjectGone = "object-gone",
    /// The object's inode can take no more names.
    TooManyLinks = "too-many-links",
    /// The filesystem does not link it (another quota project, say).
    CannotLink = "cannot-be-linked",
    /// So small that the filesystem keeps it among its metadata: it has no extent to share.
    Inline = "without-extents",
    /// The filesystem does not share its extents (a swap file, or data without checksums).
    CannotShare = "extents-cannot-be-shared",
    /// The temporary name beside it is taken by something else.
    NameTaken = "temporary-name-taken",
    /// A directory below 500 others, which is not entered: it counts as one, and what is in it stays as it is.
    TooDeep = "too-deep",
}

/// A number for each reason: how many files were skipped, or how many bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped([u64; Skip::ALL.len()]);

impl Skipped {
    /// Counts so many more.
    pub fn add(&mut self, reason: Skip, more: u64) {
        self.0[reason as usize] += more;
    }

    /// How many.
    #[must_use]
    pub fn count(&self, reason: Skip) -> u64 {
        self.0[reason as usize]
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    /// The reasons that occurred, with their counts.
    pub fn occurred(&self) -> impl Iterator<Item = (Skip, u64)> {
        Skip::ALL
            .iter()
            .map(|&skip| (skip, self.count(skip)))
            .filter(|&(_, count)| count > 0)
    }
}

impl Serialize for Skipped {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (skip, count) in self.occurred() {
            map.serialize_entry(skip.name(), &count)?;
        }
        map.end()
    }
}
