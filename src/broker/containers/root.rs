//! The root directory of a container, by one of its processes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use vhashify_sys::file_handle;
use vhashify_sys::procfs::{self, Fields};

use super::error::Unserved;
use crate::guest::{Guest, GuestError, StoreLocation, check_layout};

/// A root directory.
#[derive(Debug)]
pub struct Root {
    /// Its device (`st_dev`).
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
    /// A place in the container's mounts.
    directory: OwnedFd,
}

impl Root {
    /// That of `process`, which must be under a filter: a number that another process has by now is told
    /// by that in most cases, and one that another process gets meanwhile in all.
    ///
    /// # Errors
    /// [`Unserved::Gone`], [`Unserved::NoFilter`], [`Unserved::Root`].
    pub fn of(process: i32) -> Result<Self, Unserved> {
        let gone = || Unserved::Gone { process };
        let pid = (process > 0).then_some(process).and_then(Pid::from_raw);
        let handle = pidfd_open(pid.ok_or_else(gone)?, PidfdFlags::empty()).map_err(|_| gone())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, procfs::path(process, "root"), flags, Mode::empty());
        let status = procfs::status(process);
        // What was opened and read since the handle was is this process's if it still runs.
        if has_ended(&handle) {
            return Err(gone());
        }
        let root = |errno: Errno| Unserved::Root {
            process,
            source: errno.into(),
        };
        let directory = opened.map_err(root)?;
        if !is_filtered(&status.map_err(root)?) {
            return Err(Unserved::NoFilter { process });
        }
        let found = rustix::fs::fstat(&directory).map_err(root)?;
        Ok(Self {
            device: found.st_dev,
            inode: found.st_ino,
            directory,
        })
    }

    /// The guest that it is of, through the mount of `store`, which is on the same filesystem.
    ///
    /// # Errors
    /// [`Unserved::Guest`]: it is the host's own root, for example, or lies in the store.
    pub fn guest(&self, name: &OsStr, store: &StoreLocation) -> Result<Guest, Unserved> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = file_handle::through(self.directory.as_fd(), store.directory.as_fd(), flags);
        let opened = opened.map_err(|errno| GuestError::Vdir {
            path: name.into(),
            source: errno.into(),
        })?;
        let guest = Guest::at(name, opened)?;
        check_layout(std::slice::from_ref(&guest), std::slice::from_ref(store))?;
        Ok(guest)
    }
}

/// Whether a process has ended, by its pidfd.
pub(super) fn has_ended(process: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut looked = [PollFd::new(process, PollFlags::IN)];
    poll(&mut looked, Some(&now)) != Ok(0)
}

/// Whether `/proc/PID/status` says that a filter is loaded.
fn is_filtered(status: &Fields) -> bool {
    status.get("Seccomp") == Some("2")
}

#[cfg(test)]
mod tests {
    use super::{Fields, Root, is_filtered};
    use crate::broker::containers::error::Unserved;

    #[test]
    fn a_process_under_a_filter_is_told_from_others() {
        let is = |status: &str| is_filtered(&Fields::from(status.to_owned()));
        assert!(is("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!is("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n"));
        assert!(!is("Name:\tSeccomp: 2\n"));
    }

    #[test]
    fn what_is_no_process_is_gone() {
        for process in [0, -1, i32::MIN, i32::MAX] {
            let found = Root::of(process);
            assert!(
                matches!(found, Err(Unserved::Gone { .. })),
                "{process}: {found:?}"
            );
        }
    }
}
