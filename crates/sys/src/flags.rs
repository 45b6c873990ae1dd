//! Inode flags: the mark of iunlink, and which flags a shareable file may carry.
//!
//! The mark is `S` and `A` together (`chattr +S +A`): both persist on ext4, XFS, Btrfs and F2FS,
//! and stand in the kernel's generic inode where the guard reads them. See `ioctl_iflags(2)`.

use std::os::fd::BorrowedFd;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Result;

use super::fault::{self, Point};

/// `FS_SYNC_FL | FS_NOATIME_FL`.
const MARK: IFlags = IFlags::SYNC.union(IFlags::NOATIME);

/// Flags that describe how the filesystem stores the file: `EXT4_HUGE_FILE_FL`, `EXT4_EXTENTS_FL`,
/// `EXT4_EA_INODE_FL` and `EXT4_INLINE_DATA_FL` (`fs/ext4/ext4.h`).
const LAYOUT: u32 = 0x0004_0000 | 0x0008_0000 | 0x0020_0000 | 0x1000_0000;

/// `FS_VERITY_FL`: an object may carry it beside the mark. Without the mark, the guest has enabled fs-verity itself.
const VERITY: u32 = 0x0010_0000;

/// The flags of `chattr(1)` that this program copies.
const SETTABLE: IFlags = IFlags::APPEND
    .union(IFlags::COMPRESSED)
    .union(IFlags::DIRSYNC)
    .union(IFlags::IMMUTABLE)
    .union(IFlags::JOURNALING)
    .union(IFlags::NOATIME)
    .union(IFlags::NOCOW)
    .union(IFlags::NODUMP)
    .union(IFlags::NOTAIL)
    .union(IFlags::PROJECT_INHERIT)
    .union(IFlags::SECURE_REMOVAL)
    .union(IFlags::SYNC)
    .union(IFlags::TOPDIR)
    .union(IFlags::UNRM);

/// The flags of a file that its guest has set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own(IFlags);

impl Own {
    /// Those of an open file or directory; none where there is only the mark of iunlink.
    ///
    /// # Errors
    /// As [`read`].
    pub fn of(file: BorrowedFd<'_>) -> Result<Self> {
        let flags = match ioctl_getflags(file) {
            Ok(flags) => flags & SETTABLE,
            Err(rustix::io::Errno::NOTTY | rustix::io::Errno::OPNOTSUPP) => IFlags::empty(),
            Err(error) => return Err(error),
        };
        Ok(Self(if flags == MARK {
            IFlags::empty()
        } else {
            flags
        }))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Without immutable and append-only, which keep a directory's names from being changed.
    #[must_use]
    pub fn that_leave_names(self) -> Self {
        Self(self.0 - (IFlags::IMMUTABLE | IFlags::APPEND))
    }

    /// Sets them on another open file, one by one where it refuses them together. True when it has all.
    ///
    /// # Errors
    /// Its flags cannot be read.
    pub fn give(self, file: BorrowedFd<'_>) -> Result<bool> {
        let before = ioctl_getflags(file)?;
        if ioctl_setflags(file, before | self.0).is_ok() {
            return Ok(true);
        }
        // Immutable last: afterwards no other can be set.
        let (last, first): (Vec<IFlags>, Vec<IFlags>) =
            self.0.iter().partition(|flag| *flag == IFlags::IMMUTABLE);
        for flag in first.into_iter().chain(last) {
            let now = ioctl_getflags(file)?;
            // Whether one was refused is seen below.
            let _ = ioctl_setflags(file, now | flag);
        }
        Ok(ioctl_getflags(file)?.contains(self.0))
    }
}

/// What a file's inode flags mean for unification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    /// None that matters.
    Plain,
    /// The mark of iunlink and nothing else.
    Marked,
    /// Flags of the file's own (immutable, append-only, no copy-on-write, compressed …). Sharing
    /// the inode would either lose them or impose them on another guest.
    Unusual,
}

/// Reads the flags of an open file.
///
/// A filesystem without inode flags has plain files.
///
/// # Errors
/// What `ioctl_iflags(2)` lists, but for `ENOTTY` and `EOPNOTSUPP`.
pub fn read(file: BorrowedFd<'_>) -> Result<Flags> {
    let flags = match ioctl_getflags(file) {
        Ok(flags) => flags.bits() & !LAYOUT,
        Err(rustix::io::Errno::NOTTY | rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    Ok(match flags {
        0 => Flags::Plain,
        marked if marked & !VERITY == MARK.bits() => Flags::Marked,
        _ => Flags::Unusual,
    })
}

/// Sets the mark of iunlink and leaves the other flags as they are.
///
/// # Errors
/// What `ioctl_iflags(2)` lists; `EOPNOTSUPP` where the filesystem keeps no such flags.
pub fn mark(file: BorrowedFd<'_>) -> Result<()> {
    let flags = ioctl_getflags(file)?;
    // This ioctl neither sets nor clears fs-verity, and Btrfs refuses its flag.
    let flags = flags - IFlags::from_bits_retain(VERITY);
    fault::at(Point::Mark, || ioctl_setflags(file, flags | MARK))
}

/// Clears the mark. Only for an inode that is no object, or no longer one.
///
/// # Errors
/// What `ioctl_iflags(2)` lists.
pub fn unmark(file: BorrowedFd<'_>) -> Result<()> {
    let flags = ioctl_getflags(file)?;
    let flags = flags - IFlags::from_bits_retain(VERITY);
    fault::at(Point::Unmark, || ioctl_setflags(file, flags - MARK))
}

/// Clears every flag that a new file has inherited from its directory or the filesystem (no copy-on-write, compression,
/// a project …), so that it is as plain as the file it is a copy of.
///
/// # Errors
/// What `ioctl_iflags(2)` lists.
pub fn clear(file: BorrowedFd<'_>) -> Result<()> {
    match read(file)? {
        Flags::Plain => Ok(()),
        Flags::Marked | Flags::Unusual => {
            let layout = ioctl_getflags(file)? & IFlags::from_bits_retain(LAYOUT);
            ioctl_setflags(file, layout)
        }
    }
}
