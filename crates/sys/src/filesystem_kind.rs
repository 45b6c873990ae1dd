//! Which kind of filesystem a file lies on, of those that the house treats in a way of their own.

use std::os::fd::AsFd;

use rustix::io::Result;

/// A kind of filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesystemKind {
    /// The filesystem of BPF's pins.
    Bpf,
    /// Btrfs.
    Btrfs,
    /// ext2, ext3 or ext4, which have one number.
    Ext4,
    /// An overlay.
    Overlay,
    /// That of pipes without a name.
    Pipes,
    /// A procfs.
    Proc,
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
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let number = found.f_type as u32;
        Ok(match number {
            0xCAFE_4A11 => Self::Bpf,
            0x9123_683E => Self::Btrfs,
            0xEF53 => Self::Ext4,
            0x794C_7630 => Self::Overlay,
            0x5049_5045 => Self::Pipes,
            0x9FA0 => Self::Proc,
            0x5846_5342 => Self::Xfs,
            _ => Self::Other,
        })
    }
}
