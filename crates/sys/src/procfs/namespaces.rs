//! In which mount namespace a process is, and below which root directory.

use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, makedev, openat};
use rustix::io::Errno;

use super::path;

/// The number of a process's mount namespace.
///
/// # Errors
/// What `readlink(2)` lists: without `ptrace(2)` access `EACCES`; `ENOENT` of a zombie.
pub fn mount_namespace(process: impl Display) -> Result<u64, Errno> {
    let link = rustix::fs::readlink(path(process, "ns/mnt"), Vec::new())?;
    let number = link.to_str().ok().and_then(|link| {
        let number = link.strip_prefix("mnt:[")?.strip_suffix(']')?;
        number.parse().ok()
    });
    number.ok_or(Errno::IO)
}

/// The root directory of a process.
#[derive(Debug)]
pub struct ProcessRoot {
    /// Open by `O_PATH`.
    pub directory: OwnedFd,
    /// Where it is.
    pub place: Place,
    /// Whether it is the root of the mount namespace. The `mountinfo` of a process that has changed its root directory
    /// (`chroot(2)`) lists the mounts below that only.
    pub is_of_namespace: bool,
}

/// A directory, by which mount and which inode it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The mount (`STATX_MNT_ID`).
    pub mount: u64,
    /// The filesystem (`st_dev`).
    pub device: u64,
    /// The inode number.
    pub inode: u64,
}

/// Opens the root directory of a process.
///
/// # Errors
/// As [`mount_namespace`].
pub fn root(process: impl Display) -> Result<ProcessRoot, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, path(process, "root"), flags, Mode::empty())?;
    // This process has another root directory, so that `..` leads out of a changed one; only the root of a namespace
    // has nothing above it.
    let above = openat(&directory, c"..", flags, Mode::empty())?;
    let place = Place::of(directory.as_fd())?;
    Ok(ProcessRoot {
        is_of_namespace: Place::of(above.as_fd())? == place,
        place,
        directory,
    })
}

impl Place {
    /// Looks at a directory.
    ///
    /// # Errors
    /// What `statx(2)` lists.
    pub fn of(directory: BorrowedFd<'_>) -> Result<Self, Errno> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let mask = StatxFlags::INO | StatxFlags::MNT_ID;
        let found = rustix::fs::statx(directory, c"", flags, mask)?;
        Ok(Self {
            mount: found.stx_mnt_id,
            device: makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{mount_namespace, root};

    #[test]
    fn this_process_is_in_the_namespace_that_the_kernel_says() {
        let link = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let number = mount_namespace("self").unwrap();
        assert_eq!(link.to_str(), Some(format!("mnt:[{number}]").as_str()));
        assert!(mount_namespace(i32::MAX).is_err());
    }

    #[test]
    fn the_root_directory_of_this_process_is_that_of_its_namespace() {
        let own = root("self").unwrap();
        assert_eq!(own.place, root(std::process::id()).unwrap().place);
        assert!(own.is_of_namespace);
    }
}
