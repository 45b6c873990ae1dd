//! Which kind of filesystem a file lies on, of those that the house treats in a way of their own.

use std::os::fd::AsFd;

use rustix::io::Result;

/// A kind of filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesystemKind {
    /// Btrfs.
    Btrfs,
    /// ext2, ext3 or ext4, which have one number.
    Ext4,
    /// An overlay.
    Overlay,
    /// XFS.
    Xfs,
    /// Any other.
    Other,
}

impl FilesystemKind {
    /// That of an open file, by its number in `include/uapi/linux/magic.h`.
    ///
    /// # Errors
    /// What `fstatfs(2)` lists.
    pub fn of(file: impl AsFd) -> Result<Self> {
        let found = rustix::fs::fstatfs(file)?;
        // The field is signed on some architectures; the numbers have 32 bits.
        Ok(match u64::try_from(found.f_type) {
            Ok(0x9123_683E) => Self::Btrfs,
            Ok(0xEF53) => Self::Ext4,
            Ok(0x794C_7630) => Self::Overlay,
            Ok(0x5846_5342) => Self::Xfs,
            _ => Self::Other,
        })
    }
}
