//! Opens the root directory of a caller, below which the broker resolves its paths.
//!
//! Nearly all callers have the guest's own root directory. The broker keeps it open and only compares the caller's
//! with it at each call: opening and closing it each time costs half as much again.
//!
//! Two directories are the same where mount, filesystem and inode are. The kernel gives the number of a mount
//! to no other mount as long as a descriptor holds it (`STATX_MNT_ID`, statx(2)), as the kept one does. The broker does
//! not keep a root that a process of the guest has made itself (`chroot`, `pivot_root`): the guest could not
//! unmount it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::Errno;
use vhashify_sys::procfs;
use vhashify_sys::stamp::Stamp;

use crate::guest::Guest;

/// Opens the root directories of one guest's callers.
#[derive(Debug)]
pub struct Roots {
    /// Device and inode of the vdir.
    vdir: Option<(u64, u64)>,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    location: Location,
    root: Arc<OwnedFd>,
}

/// A directory in one mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Location {
    mount: u64,
    device: (u32, u32),
    inode: u64,
}

impl Roots {
    /// For the callers of `guest`.
    #[must_use]
    pub fn of(guest: &Guest) -> Self {
        let vdir = Stamp::of(guest.root.as_fd());
        Self {
            vdir: vdir.ok().map(|stamp| (guest.device, stamp.inode)),
            kept: Mutex::default(),
        }
    }

    /// The root directory of a thread, opened with `O_PATH`.
    ///
    /// # Errors
    /// `ENOENT` when the thread has ended.
    pub fn root(&self, thread: u32) -> Result<Arc<OwnedFd>, Errno> {
        let path = procfs::path(thread, "root");
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = AtFlags::STATX_DONT_SYNC;
        if let Some(kept) = &*kept
            && Location::of(&statx(CWD, &path, flags, wanted())?) == Some(kept.location)
        {
            return Ok(Arc::clone(&kept.root));
        }
        let root = openat(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let found = statx(&root, c"", flags | AtFlags::EMPTY_PATH, wanted())?;
        let root = Arc::new(root);
        if self.is_vdir(&found)
            && let Some(location) = Location::of(&found)
        {
            let root = Arc::clone(&root);
            *kept = Some(Kept { location, root });
        }
        Ok(root)
    }

    fn is_vdir(&self, found: &Statx) -> bool {
        let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
        self.vdir == Some((device, found.stx_ino))
    }
}

fn wanted() -> StatxFlags {
    StatxFlags::INO | StatxFlags::MNT_ID
}

impl Location {
    /// `None` where the kernel does not say the mount (before Linux 5.8).
    fn of(found: &Statx) -> Option<Self> {
        let told = StatxFlags::from_bits_retain(found.stx_mask);
        told.contains(wanted()).then_some(Self {
            mount: found.stx_mnt_id,
            device: (found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
        })
    }
}
