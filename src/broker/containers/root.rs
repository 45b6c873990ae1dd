//! Finds the root directory of a container by one of its processes.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use vhashify_sys::file_handle;
use vhashify_sys::procfs::{self, Fields};

use super::error::ConnectionError;
use super::process::has_ended;
use crate::guest::{Guest, GuestError, StoreLocation, check_layout};

/// A root directory.
#[derive(Debug)]
pub struct Root {
    /// Its device (`st_dev`).
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
    /// Opened with `O_PATH` in the container's mount namespace.
    directory: OwnedFd,
}

impl Root {
    /// The root directory of `process`, which must be under a filter. A process without one is most likely another one
    /// that has the number by now. The pidfd tells if a process gets the number meanwhile.
    ///
    /// # Errors
    /// [`ConnectionError::Gone`], [`ConnectionError::NoFilter`], [`ConnectionError::Root`].
    pub fn of(process: i32) -> Result<Self, ConnectionError> {
        let gone = || ConnectionError::Gone { process };
        let pid = (process > 0).then_some(process).and_then(Pid::from_raw);
        let handle = pidfd_open(pid.ok_or_else(gone)?, PidfdFlags::empty()).map_err(|_| gone())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, procfs::path(process, "root"), flags, Mode::empty());
        let status = procfs::status(process);
        // If the process still runs, all that was opened and read since its pidfd is its own.
        if has_ended(&handle) {
            return Err(gone());
        }
        let root = |errno: Errno| ConnectionError::Root {
            process,
            source: errno.into(),
        };
        let directory = opened.map_err(root)?;
        if !is_filtered(&status.map_err(root)?) {
            return Err(ConnectionError::NoFilter { process });
        }
        let found = rustix::fs::fstat(&directory).map_err(root)?;
        Ok(Self {
            device: found.st_dev,
            inode: found.st_ino,
            directory,
        })
    }

    /// Opens the guest with this root directory through the mount of `store`, which is on the same filesystem.
    ///
    /// # Errors
    /// [`ConnectionError::Guest`]: for example, the directory is the host's root or lies in the store.
    pub fn guest(&self, name: &OsStr, store: &StoreLocation) -> Result<Guest, ConnectionError> {
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

/// Whether `/proc/PID/status` says that a filter is loaded.
fn is_filtered(status: &Fields) -> bool {
    status.get("Seccomp") == Some("2")
}

#[cfg(test)]
mod tests {
    use super::{Fields, Root, is_filtered};
    use crate::broker::containers::error::ConnectionError;

    #[test]
    fn a_process_under_a_filter_differs_from_others() {
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
                matches!(found, Err(ConnectionError::Gone { .. })),
                "{process}: {found:?}"
            );
        }
    }
}
