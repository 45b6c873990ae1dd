//! A thread of a guest that waits in a call: its memory, its directories, its descriptors.
//!
//! Everything here is read from a process that the guest controls and that may change it at once. It is
//! never more than a hint which file the call is about: whether that file is shared is decided on a
//! descriptor, and what follows from it concerns this guest's own names only.
//!
//! Paths are resolved below the thread's root directory, by the kernel and with `RESOLVE_IN_ROOT`: no
//! `..` and no symbolic link leads out of it. A relative path is led there from the root by the path of
//! the directory that it begins at.
//!
//! What is behind `/proc/self` is another process here than there. A path that is written as a
//! descriptor (`/proc/self/fd/3`, `/dev/fd/3`, `/dev/stdin`) is taken for that descriptor; one that comes
//! there by a symbolic link of the guest is not found, the call goes on, and the guard refuses it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2};
use rustix::io::Errno;
use vhashify_sys::process::read_memory;
use vhashify_sys::procfs::{self, Fields};
use vhashify_sys::resolve::path_of;
use vhashify_sys::seccomp::{Listener, Notification};

use super::root::Roots;

/// The longest path with its end (`PATH_MAX`).
const LONGEST_PATH: usize = 4096;
/// Bytes of it that are read at once: most paths are shorter.
const PART: usize = 256;
/// The smallest page: what is read at once goes on in no other, where the caller's memory may have ended.
const PAGE: u64 = 4096;

/// A thread that waits.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Where it waits.
    pub listener: &'a Listener,
    /// Its call.
    pub notification: &'a Notification,
    /// The root directories of the guest.
    pub roots: &'a Roots,
}

/// What a call names.
#[derive(Debug)]
pub enum Named {
    /// A path.
    Path(Path),
    /// One of the caller's descriptors.
    Descriptor(i32),
}

/// A path as it stood in a caller's memory, below the root directory that the caller had then.
#[derive(Debug)]
pub struct Path {
    root: Arc<OwnedFd>,
    bytes: Vec<u8>,
    /// Whether a symbolic link at its end is followed.
    follows: bool,
}

/// How a path is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By what the kernel has in memory alone (`RESOLVE_CACHED`): no disk and no server is waited for.
    Cached,
    /// To its end.
    Thorough,
}

impl Path {
    /// The file that it leads to now, as a place and not for reading.
    ///
    /// # Errors
    /// Whatever keeps it from being found. The call itself will meet the same, or knows better;
    /// `EAGAIN` where it cannot be told in this way.
    pub fn resolve(&self, way: Way) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !self.follows {
            flags |= OFlags::NOFOLLOW;
        }
        let resolve = match way {
            Way::Cached => ResolveFlags::IN_ROOT | ResolveFlags::CACHED,
            Way::Thorough => ResolveFlags::IN_ROOT,
        };
        let path = OsStr::from_bytes(&self.bytes);
        loop {
            match openat2(&*self.root, path, flags, Mode::empty(), resolve) {
                // A rename elsewhere made the kernel's check of `..` uncertain.
                Err(Errno::AGAIN | Errno::INTR) if way == Way::Thorough => {}
                other => return other,
            }
        }
    }
}

impl Caller<'_> {
    /// What a path says that stands at an address of its memory. `follows`: whether a symbolic link at its end is
    /// followed; `may_be_empty`: whether no path is the descriptor `directory` itself.
    ///
    /// # Errors
    /// Whatever keeps it from being read. The call itself will meet the same.
    pub fn named(
        &self,
        directory: i32,
        path: u64,
        follows: bool,
        may_be_empty: bool,
    ) -> Result<Named, Errno> {
        let path = if path == 0 && may_be_empty {
            Vec::new()
        } else {
            self.string(path)?
        };
        if path.is_empty() {
            return match may_be_empty {
                true if directory == libc::AT_FDCWD => Err(Errno::ISDIR),
                true => Ok(Named::Descriptor(directory)),
                false => Err(Errno::NOENT),
            };
        }
        if let Some(number) = descriptor_of(&path) {
            return Ok(Named::Descriptor(number));
        }
        let root = self.roots.root(self.notification.thread)?;
        let path = if path.starts_with(b"/") {
            path
        } else {
            let base = if directory == libc::AT_FDCWD {
                self.open("cwd")?
            } else {
                self.open(&format!("fd/{directory}"))?
            };
            let top = path_of(root.as_fd())?;
            let base = path_of(base.as_fd())?;
            let below = base
                .strip_prefix(top.strip_suffix(b"/").unwrap_or(&top))
                .ok_or(Errno::XDEV)?;
            [below, path.as_slice()].join(b"/".as_slice())
        };
        Ok(Named::Path(Path {
            root,
            bytes: path,
            follows,
        }))
    }

    /// Whether its call still waits. What was read of the thread before was then its caller's, and not of another
    /// one that was given the same number since.
    ///
    /// What is found at a glance is answered without asking: the kernel takes no answer to a call that has ended.
    ///
    /// # Errors
    /// `ESRCH` where it does not.
    pub fn still_waits(&self) -> Result<(), Errno> {
        if self.listener.still_waits(self.notification) {
            Ok(())
        } else {
            Err(Errno::SRCH)
        }
    }

    /// Eight bytes of its memory, the flags of a `struct open_how`.
    ///
    /// # Errors
    /// As [`read_memory`].
    pub fn number(&self, address: u64) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        match read_memory(self.notification.thread, address, &mut bytes)? {
            8 => Ok(u64::from_ne_bytes(bytes)),
            _ => Err(Errno::FAULT),
        }
    }

    /// Opens one of its descriptors as a place.
    ///
    /// # Errors
    /// `ENOENT` where it has none of this number.
    pub fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        self.open(&format!("fd/{number}"))
    }

    /// Whether it can write through one of its descriptors: the mode of `/proc/T/fd/N` says how the file is
    /// open (`proc_pid_fd(5)`). Such a file is no object, since nothing is shared that somebody has open
    /// for writing, and opens for writing break links.
    #[must_use]
    pub fn can_write_through(&self, number: i32) -> bool {
        let path = procfs::path(self.notification.thread, &format!("fd/{number}"));
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        rustix::fs::statx(CWD, path, flags, StatxFlags::MODE)
            .is_ok_and(|link| u32::from(link.stx_mode) & libc::S_IWUSR != 0)
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

    /// A string of its memory. It is read part by part, since it may end where its memory does.
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

/// The descriptor that a path is written as.
fn descriptor_of(path: &[u8]) -> Option<i32> {
    match path {
        b"/dev/stdin" => return Some(0),
        b"/dev/stdout" => return Some(1),
        b"/dev/stderr" => return Some(2),
        _ => {}
    }
    let number = ["/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/"]
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix.as_bytes()))?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::descriptor_of;

    #[test]
    fn a_path_that_is_a_descriptor_is_known() {
        for (path, number) in [
            ("/proc/self/fd/3", Some(3)),
            ("/dev/fd/12", Some(12)),
            ("/dev/stdout", Some(1)),
            ("/proc/self/fd/3/x", None),
            ("/proc/self/fd/", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(descriptor_of(path.as_bytes()), number, "{path}");
        }
    }
}
