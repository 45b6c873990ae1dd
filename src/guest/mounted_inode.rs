//! An open directory's inode, and the mount through which the path led to it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// A directory's inode, and the mount through which it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MountedInode {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) mount_id: u64,
}

impl MountedInode {
    pub(super) fn of(directory: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let found = rustix::fs::fstat(directory)?;
        let seen = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        if seen.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
            // Linux before 5.8 answers without the mount.
            return Err(Errno::NOSYS);
        }
        Ok(Self {
            device: found.st_dev,
            inode: found.st_ino,
            mount_id: seen.stx_mnt_id,
        })
    }

    /// Two paths with the same answer lead to the same directory, through whichever mounts.
    pub(super) fn device_and_inode(self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// Opens a directory for reading: its path without symbolic links, the descriptor, and the inode.
pub(super) fn open_directory(path: &Path) -> io::Result<(PathBuf, OwnedFd, MountedInode)> {
    let path = fs::canonicalize(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&path, flags, Mode::empty())?;
    let inode = MountedInode::of(directory.as_fd())?;
    Ok((path, directory, inode))
}
