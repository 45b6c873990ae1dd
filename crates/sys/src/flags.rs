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

/// What a filesystem says of its own layout and not of the file: `EXT4_HUGE_FILE_FL`,
/// `EXT4_EXTENTS_FL`, `EXT4_EA_INODE_FL` and `EXT4_INLINE_DATA_FL` (`fs/ext4/ext4.h`).
const LAYOUT: u32 = 0x0004_0000 | 0x0008_0000 | 0x0020_0000 | 0x1000_0000;

/// `FS_VERITY_FL`: an object may have it, too; a file that a guest has put under fs-verity itself has it
/// without the mark.
const VERITY: u32 = 0x0010_0000;

/// What `chattr(1)` can set and this program takes over into a copy.
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

/// Flags that somebody gave a file.
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

    /// Without those that keep names from being changed.
    #[must_use]
    pub fn that_leave_names(self) -> Self {
        Self(self.0 - (IFlags::IMMUTABLE | IFlags::APPEND))
    }

    /// Gives them to another open file, one by one where it does not take all. True when it has all.
    ///
    /// # Errors
    /// Its flags cannot be read.
    pub fn give(self, file: BorrowedFd<'_>) -> Result<bool> {
        let before = ioctl_getflags(file)?;
        if ioctl_setflags(file, before | self.0).is_ok() {
            return Ok(true);
        }
        // Immutable last: it keeps the others out.
        let (last, first): (Vec<IFlags>, Vec<IFlags>) =
            self.0.iter().partition(|flag| *flag == IFlags::IMMUTABLE);
        for flag in first.into_iter().chain(last) {
            let now = ioctl_getflags(file)?;
            // What it does not take, it is told of below.
            let _ = ioctl_setflags(file, now | flag);
        }
        Ok(ioctl_getflags(file)?.contains(self.0))
    }
}

/// What a file's inode flags mean for unification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flags {
    /// None that matter: a file like any other.
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
    // Nobody can set or clear fs-verity so, and Btrfs refuses to be told of it.
    let flags = flags - IFlags::from_bits_retain(VERITY);
    fault::at(Point::Mark, || ioctl_setflags(file, flags | MARK))
}

/// Takes the mark away. Only for an inode that is not, or not any more, an object.
///
/// # Errors
/// What `ioctl_iflags(2)` lists.
pub fn unmark(file: BorrowedFd<'_>) -> Result<()> {
    let flags = ioctl_getflags(file)?;
    let flags = flags - IFlags::from_bits_retain(VERITY);
    fault::at(Point::Unmark, || ioctl_setflags(file, flags - MARK))
}

/// Takes every flag off a new file that its directory or the filesystem gave it (no copy-on-write,
/// compression, a project …), so that it is as plain as the file that it is a copy of.
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
