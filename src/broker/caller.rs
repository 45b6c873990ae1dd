//! Reads what a waiting thread of a guest names: its memory, its directories, its descriptors.
//!
//! The guest controls the process and may change everything that is read here at once. So it is a hint which file the
//! call is about, and no more: the broker asks an open descriptor whether that file is shared, and then changes this
//! guest's own names only.
//!
//! How a path leads to a file stands in [`caller_path`](super::caller_path).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat};
use rustix::io::Errno;
use vhashify_sys::process::read_memory;
use vhashify_sys::procfs::{self, Fields};
use vhashify_sys::resolve::path_of;
use vhashify_sys::seccomp::{Listener, Notification};

use super::caller_path::{Path, SCOPES};
use super::root::Roots;

/// The longest path with its end (`PATH_MAX`).
const LONGEST_PATH: usize = 4096;
/// Bytes of it that one read takes: most paths are shorter.
const PART: usize = 256;
/// The smallest page. No read crosses into the next one, where the caller's memory may have ended.
const PAGE: u64 = 4096;

/// A waiting thread.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The listener that its call came on.
    pub listener: &'a Listener,
    /// Its call.
    pub notification: &'a Notification,
    /// The root directories of the guest.
    pub roots: &'a Roots,
}

/// A path or a descriptor: what a call names its file by.
#[derive(Debug)]
pub enum Named {
    /// A path.
    Path(Path),
    /// One of the caller's descriptors.
    Descriptor(i32),
    /// The caller's working directory.
    WorkingDirectory,
}

impl Caller<'_> {
    /// Reads the path at an address of its memory. `follows`: whether the call follows a symbolic link at its
    /// end; `may_be_empty`: whether an empty path means the descriptor `directory` itself; `resolve`: what an
    /// `openat2(2)` asks for.
    ///
    /// # Errors
    /// What keeps the path from being read: `EFAULT`, too, where it lies in memory that the kernel reads for the caller
    /// alone (`memfd_secret(2)`). `EBADF` where the caller has no such descriptor.
    pub fn named(
        &self,
        directory: i32,
        path: u64,
        follows: bool,
        may_be_empty: bool,
        resolve: ResolveFlags,
    ) -> Result<Named, Errno> {
        let path = if path == 0 && may_be_empty {
            Vec::new()
        } else {
            self.string(path)?
        };
        if path.is_empty() {
            return match may_be_empty {
                true if directory == libc::AT_FDCWD => Ok(Named::WorkingDirectory),
                true => Ok(Named::Descriptor(directory)),
                false => Err(Errno::NOENT),
            };
        }
        let thread = self.notification.thread;
        let own_root = self.roots.root(thread)?;
        let is_base_root = path.starts_with(b"/") && !resolve.intersects(SCOPES);
        let (root, base, base_is_above) = if is_base_root {
            (Arc::clone(&own_root), own_root, false)
        } else {
            let base = Arc::new(self.base(directory)?);
            if resolve.contains(ResolveFlags::IN_ROOT) {
                (Arc::clone(&base), base, false)
            } else {
                let is_above = may_be_above(base.as_fd(), own_root.as_fd());
                (own_root, base, is_above)
            }
        };
        Ok(Named::Path(Path {
            thread,
            root,
            base,
            base_is_above,
            bytes: path,
            follows,
            resolve,
        }))
    }

    /// The directory that a relative path begins at.
    fn base(&self, directory: i32) -> Result<OwnedFd, Errno> {
        if directory == libc::AT_FDCWD {
            self.open("cwd")
        } else {
            self.descriptor(directory)
        }
    }

    /// Checks that its call still waits. Then everything that was read of the thread before is this caller's, and not
    /// that of a later thread with the same number.
    ///
    /// An answer without a break needs no check: the kernel takes no answer to a call that has ended.
    ///
    /// # Errors
    /// `ESRCH` where it waits no more.
    pub fn still_waits(&self) -> Result<(), Errno> {
        if self.listener.still_waits(self.notification) {
            Ok(())
        } else {
            Err(Errno::SRCH)
        }
    }

    /// Reads `into` from an address of its memory.
    ///
    /// # Errors
    /// As [`read_memory`]; `EFAULT` where there are fewer bytes.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if read_memory(self.notification.thread, address, into)? == into.len() {
            Ok(())
        } else {
            Err(Errno::FAULT)
        }
    }

    /// Opens the file of one of its descriptors with `O_PATH`.
    ///
    /// # Errors
    /// `EBADF` where it has none of this number.
    pub fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        match self.open(&format!("fd/{number}")) {
            Err(Errno::NOENT) => Err(Errno::BADF),
            opened => opened,
        }
    }

    /// Whether one of its descriptors leads to this inode of the filesystem `device`.
    #[must_use]
    pub fn leads_to(&self, number: i32, device: u64, inode: u64) -> bool {
        let found = self.descriptor(number).and_then(rustix::fs::fstat);
        found.is_ok_and(|found| (found.st_dev, found.st_ino) == (device, inode))
    }

    /// Whether it can write through one of its descriptors: the mode of `/proc/T/fd/N` says how the file is
    /// open (`proc_pid_fd(5)`). Such a file is no object: a run shares no file that is open for writing, and an open
    /// for writing breaks the link.
    #[must_use]
    pub fn can_write_through(&self, number: i32) -> bool {
        let path = procfs::path(self.notification.thread, &format!("fd/{number}"));
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        rustix::fs::statx(CWD, path, flags, StatxFlags::MODE)
            .is_ok_and(|link| u32::from(link.stx_mode) & libc::S_IWUSR != 0)
    }

    /// Whether it is in another user namespace than this process; `None` when it has gone.
    #[must_use]
    pub fn has_own_users(&self) -> Option<bool> {
        let of = |path: std::path::PathBuf| {
            let found = rustix::fs::stat(path).ok()?;
            Some((found.st_dev, found.st_ino))
        };
        let own = of(procfs::path("self", "ns/user"))?;
        let its = of(procfs::path(self.notification.thread, "ns/user"))?;
        Some(own != its)
    }

    /// Its `/proc/T/status`; `None` when it has gone.
    #[must_use]
    pub fn status(&self) -> Option<Fields> {
        procfs::status(self.notification.thread).ok()
    }

    /// Its `/proc/T/fdinfo/N`; `None` when it has gone or has no such descriptor.
    #[must_use]
    pub fn fdinfo(&self, descriptor: u32) -> Option<Fields> {
        procfs::fdinfo(self.notification.thread, descriptor).ok()
    }

    fn open(&self, below: &str) -> Result<OwnedFd, Errno> {
        let path = procfs::path(self.notification.thread, below);
        openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    }

    /// Reads a string of its memory in parts, since the string may end where the memory does.
    fn string(&self, address: u64) -> Result<Vec<u8>, Errno> {
        let mut found = Vec::new();
        while found.len() < LONGEST_PATH {
            let at = address
                .checked_add(found.len() as u64)
                .ok_or(Errno::FAULT)?;
            let mut buffer = [0; PART];
            let page = usize::try_from(PAGE - at % PAGE).unwrap_or(PART);
            let part = &mut buffer[..page.min(PART)];
            let count = read_memory(self.notification.thread, at, part)?;
            let part = &buffer[..count];
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                found.extend(&part[..end]);
                return Ok(found);
            }
            if count == 0 {
                return Err(Errno::FAULT);
            }
            found.extend(part);
        }
        Err(Errno::NAMETOOLONG)
    }
}

/// Whether `root` may lie below `base`: its path then begins with that of `base`.
fn may_be_above(base: BorrowedFd<'_>, root: BorrowedFd<'_>) -> bool {
    match (path_of(base), path_of(root)) {
        // The kernel tells no path as long as this, and that of the root is shorter.
        (Err(Errno::NAMETOOLONG), Ok(_)) => false,
        (Ok(base), Ok(root)) => root.starts_with(&base) && root != base,
        _ => true,
    }
}
