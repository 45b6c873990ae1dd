//! What is kept of each file, packed: there are millions of them.

use std::collections::HashMap;

use vhashify_sys::stamp::{Stamp, Timestamp};

use super::GuestId;

/// Bytes of a block as inodes count them.
const BLOCK: u64 = 512;

/// One name of one regular file.
#[derive(Debug, Clone, Copy)]
pub struct FileRecord {
    inode: Wide,
    size: Wide,
    mtime_seconds: Wide,
    ctime_seconds: Wide,
    mtime_nanoseconds: u32,
    ctime_nanoseconds: u32,
    /// Blocks allocated, as far as the number goes: to two tebibytes.
    blocks: u32,
    link_count: u32,
    /// Its row among the [`Permissions`].
    pub(super) permissions: u32,
    /// The directory it stands in.
    pub directory: u32,
    /// Where its name begins.
    pub(super) name: u32,
}

/// Eight bytes that may stand at any multiple of four, so that no record ends in a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wide([u32; 2]);

impl Wide {
    #[allow(clippy::cast_possible_truncation)] // Each half on its own.
    const fn new(number: u64) -> Self {
        Self([(number >> 32) as u32, number as u32])
    }

    const fn get(self) -> u64 {
        (self.0[0] as u64) << 32 | self.0[1] as u64
    }
}

impl FileRecord {
    /// Packs what was seen of a file.
    pub(super) fn new(stamp: &Stamp, permissions: u32, directory: u32, name: u32) -> Self {
        Self {
            inode: Wide::new(stamp.inode),
            size: Wide::new(stamp.size),
            mtime_seconds: Wide::new(stamp.mtime.seconds.cast_unsigned()),
            ctime_seconds: Wide::new(stamp.ctime.seconds.cast_unsigned()),
            mtime_nanoseconds: stamp.mtime.nanoseconds,
            ctime_nanoseconds: stamp.ctime.nanoseconds,
            blocks: u32::try_from(stamp.allocated / BLOCK).unwrap_or(u32::MAX),
            link_count: stamp.link_count,
            permissions,
            directory,
            name,
        }
    }

    /// Its inode number.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode.get()
    }

    /// Bytes of content.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// Bytes allocated on disk.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        u64::from(self.blocks) * BLOCK
    }

    /// Count of the inode's names, wherever they are.
    #[must_use]
    pub fn link_count(&self) -> u32 {
        self.link_count
    }

    /// Last change of content.
    #[must_use]
    pub fn mtime(&self) -> Timestamp {
        Timestamp {
            seconds: self.mtime_seconds.get().cast_signed(),
            nanoseconds: self.mtime_nanoseconds,
        }
    }

    /// What tells mode, owner and group from others of the same scan.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.permissions
    }

    /// All of its inode that was kept.
    pub(super) fn stamp(&self, permissions: &Permissions) -> Stamp {
        Stamp {
            inode: self.inode(),
            size: self.size(),
            allocated: self.allocated(),
            mtime: self.mtime(),
            ctime: Timestamp {
                seconds: self.ctime_seconds.get().cast_signed(),
                nanoseconds: self.ctime_nanoseconds,
            },
            mode: permissions.mode,
            link_count: self.link_count,
            owner: permissions.owner,
            group: permissions.group,
        }
    }
}

/// One directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirectoryRecord {
    pub(super) parent: Option<u32>,
    pub(super) guest: GuestId,
    /// Where its name begins.
    pub(super) name: u32,
}

/// Mode, owner and group of a file: hundreds of thousands of files have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permissions {
    mode: u16,
    owner: u32,
    group: u32,
}

impl Permissions {
    /// Those of an inode.
    #[must_use]
    pub fn of(stamp: &Stamp) -> Self {
        Self {
            mode: stamp.mode,
            owner: stamp.owner,
            group: stamp.group,
        }
    }
}

/// Every [`Permissions`] that was seen, once, by number.
#[derive(Debug, Default)]
pub(super) struct PermissionsTable {
    rows: Vec<Permissions>,
    numbers: HashMap<Permissions, u32>,
}

impl PermissionsTable {
    /// The number of `permissions`, which get one if they have none.
    pub(super) fn number(&mut self, permissions: Permissions) -> u32 {
        *self.numbers.entry(permissions).or_insert_with(|| {
            self.rows.push(permissions);
            super::narrow(self.rows.len() - 1)
        })
    }

    /// The number of `permissions`, if they were seen.
    pub(super) fn find(&self, permissions: Permissions) -> Option<u32> {
        self.numbers.get(&permissions).copied()
    }

    pub(super) fn get(&self, number: u32) -> &Permissions {
        &self.rows[number as usize]
    }

    /// In the order of their numbers.
    pub(super) fn all(&self) -> &[Permissions] {
        &self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::{FileRecord, Permissions};
    use proptest::prelude::*;
    use vhashify_sys::stamp::{Stamp, Timestamp};

    #[test]
    fn a_record_takes_sixty_bytes() {
        assert_eq!(size_of::<FileRecord>(), 60);
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(
            inode: u64, size: u64, blocks: u32, mtime: (i64, u32), ctime: (i64, u32),
            mode: u16, link_count: u32, owner: u32, group: u32,
        ) {
            let time = |(seconds, nanoseconds)| Timestamp { seconds, nanoseconds };
            let stamp = Stamp {
                inode, size, allocated: u64::from(blocks) * 512, mtime: time(mtime),
                ctime: time(ctime), mode, link_count, owner, group,
            };
            let record = FileRecord::new(&stamp, 0, 0, 0);
            prop_assert_eq!(record.stamp(&Permissions::of(&stamp)), stamp);
        }
    }
}
