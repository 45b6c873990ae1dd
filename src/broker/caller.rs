//! Reads what a waiting thread of a guest names: its memory, its directories, its descriptors.
//!
//! The guest controls the process and may change everything that is read here at once. So it is a hint which file the
//! call is about, and no more: the broker asks an open descriptor whether that file is shared, and then changes this
//! guest's own names only.
//!
//! The kernel resolves paths below the thread's root directory (`RESOLVE_IN_ROOT`): no `..` and no symbolic link leads
//! out of it. A relative path becomes one from the root by the path of the directory that it begins at.
//!
//! `/proc/self` is the broker here and the caller there. A path that is written as a descriptor (`/proc/self/fd/3`,
//! `/dev/fd/3`, `/dev/stdin`) is taken for that descriptor. The broker does not find a path that gets there by a
//! symbolic link of the guest: the call goes on, and the guard refuses it.

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
}

/// A path as it was in a caller's memory, below the root directory that the caller had then.
#[derive(Debug)]
pub struct Path {
    root: Arc<OwnedFd>,
    bytes: Vec<u8>,
    /// Whether the call follows a symbolic link at its end.
    follows: bool,
}

/// How far the kernel goes to resolve a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The kernel uses its caches only (`RESOLVE_CACHED`), and waits for no disk and no server.
    Cached,
    /// To its end.
    Full,
}

impl Path {
    /// Opens the file that it leads to now, with `O_PATH`.
    ///
    /// # Errors
    /// What `openat2(2)` lists. The call itself will meet the same error, unless its caller changes the path;
    /// `EAGAIN` where the kernel's caches do not suffice.
    pub fn resolve(&self, lookup: Lookup) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !self.follows {
            flags |= OFlags::NOFOLLOW;
        }
        let resolve = match lookup {
            Lookup::Cached => ResolveFlags::IN_ROOT | ResolveFlags::CACHED,
            Lookup::Full => ResolveFlags::IN_ROOT,
        };
        let path = OsStr::from_bytes(&self.bytes);
        loop {
            match openat2(&*self.root, path, flags, Mode::empty(), resolve) {
                // A concurrent rename made the kernel's check of `..` uncertain.
                Err(Errno::AGAIN | Errno::INTR) if lookup == Lookup::Full => {}
                other => return other,
            }
        }
    }
}

impl Caller<'_> {
    /// Reads the path at an address of its memory. `follows`: whether the call follows a symbolic link at its
    /// end; `may_be_empty`: whether an empty path means the descriptor `directory` itself.
    ///
    /// # Errors
    /// What keeps the path from being read. The call itself will meet the same.
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

    /// Reads eight bytes of its memory: a field of a `struct open_how`.
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

    /// Opens the file of one of its descriptors with `O_PATH`.
    ///
    /// # Errors
    /// `ENOENT` where it has none of this number.
    pub fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        self.open(&format!("fd/{number}"))
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

/// The descriptor that the path is written as.
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
