//! Where a filesystem puts a file's data and on which project's account: what `struct fsxattr` says beyond the flags.
//!
//! XFS knows all of it, ext4 and F2FS project ids alone. No call but this one shows it. See
//! `ioctl_xfs_fsgetxattr(2)`.

use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

use super::fault::{self, Point};

/// `FS_XFLAG_EXTSIZE`, `FS_XFLAG_COWEXTSIZE` (`include/uapi/linux/fs.h`).
const EXTENT_SIZE: u32 = 0x0000_0800;
const COW_EXTENT_SIZE: u32 = 0x0001_0000;

/// `FS_XFLAG_REALTIME`, `FS_XFLAG_NODEFRAG` and `FS_XFLAG_FILESTREAM`. The flags that `FS_IOC_GETFLAGS` shows are left
/// to [`flags`](super::flags), and what nobody sets by this request, as `FS_XFLAG_PREALLOC`, is no metadata.
const FLAGS: u32 = 0x0000_0001 | 0x0000_2000 | 0x0000_4000 | EXTENT_SIZE | COW_EXTENT_SIZE;

/// `FS_XFLAG_PROJINHERIT`, of directories.
const INHERIT_PROJECT: u32 = 0x0000_0200;

/// Where a file's data go and on which project's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Placement {
    /// Its project id; 0 is none.
    pub project: u32,
    /// Its extent size hint in bytes; 0 is none.
    pub extent_size: u32,
    /// The same for copy on write.
    pub cow_extent_size: u32,
    /// Its `FS_XFLAG_` flags that no other call shows.
    pub flags: u32,
}

impl Placement {
    /// That of an open file; nothing special on a filesystem that does not know it.
    ///
    /// # Errors
    /// What `ioctl_xfs_fsgetxattr(2)` lists, but for `ENOTTY` and `EOPNOTSUPP`.
    pub fn of(file: BorrowedFd<'_>) -> Result<Self> {
        match get(file) {
            Ok(attributes) => Ok(Self::from(attributes)),
            Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(Self::default()),
            Err(errno) => Err(errno),
        }
    }

    /// Whether there is nothing special about it.
    #[must_use]
    pub fn is_plain(self) -> bool {
        self == Self::default()
    }

    /// The same with the project id that every file in `directory` must have, if it hands one down (`chattr +P`): the
    /// kernel lets no file of another project get a name there.
    ///
    /// # Errors
    /// As [`Placement::of`].
    pub fn allowed_in(self, directory: BorrowedFd<'_>) -> Result<Self> {
        match get(directory) {
            Ok(Attributes { flags, project, .. }) if flags & INHERIT_PROJECT != 0 => {
                Ok(Self { project, ..self })
            }
            Ok(_) | Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(self),
            Err(errno) => Err(errno),
        }
    }

    /// Gives it to a file that has no content yet: XFS takes hints of extents only while there are none.
    ///
    /// # Errors
    /// What `ioctl_xfs_fssetxattr(2)` lists.
    pub fn give(self, file: BorrowedFd<'_>) -> Result<()> {
        if Self::of(file)? == self {
            return Ok(());
        }
        let now = get(file)?;
        let wanted = Attributes {
            flags: now.flags & !FLAGS | self.flags,
            extent_size: self.extent_size,
            project: self.project,
            cow_extent_size: self.cow_extent_size,
            ..now
        };
        fault::at(Point::CopyMetadata, || set(file, wanted))
    }
}

impl From<Attributes> for Placement {
    fn from(found: Attributes) -> Self {
        // A size without its flag is what a directory hands down, or nothing.
        let sized = |flag, size| if found.flags & flag == 0 { 0 } else { size };
        Self {
            project: found.project,
            extent_size: sized(EXTENT_SIZE, found.extent_size),
            cow_extent_size: sized(COW_EXTENT_SIZE, found.cow_extent_size),
            flags: found.flags & FLAGS,
        }
    }
}

/// `struct fsxattr` (`include/uapi/linux/fs.h`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

const _: () = assert!(size_of::<Attributes>() == 28, "as in linux/fs.h");

fn get(file: BorrowedFd<'_>) -> Result<Attributes> {
    /// `_IOR('X', 31, struct fsxattr)`.
    const FS_IOC_FSGETXATTR: Opcode = opcode::read::<Attributes>(b'X', 31);
    // SAFETY: FS_IOC_FSGETXATTR writes a `struct fsxattr`, which `Attributes` is, field by field.
    let call = unsafe { Getter::<FS_IOC_FSGETXATTR, Attributes>::new() };
    // SAFETY: the kernel writes the answer and nothing else.
    unsafe { ioctl(file, call) }
}

fn set(file: BorrowedFd<'_>, attributes: Attributes) -> Result<()> {
    /// `_IOW('X', 32, struct fsxattr)`.
    const FS_IOC_FSSETXATTR: Opcode = opcode::write::<Attributes>(b'X', 32);
    // SAFETY: FS_IOC_FSSETXATTR takes a pointer to a `struct fsxattr`, which `Attributes` is, field by field.
    let call = unsafe { Setter::<FS_IOC_FSSETXATTR, Attributes>::new(attributes) };
    // SAFETY: the kernel reads the request and nothing else.
    unsafe { ioctl(file, call) }
}
