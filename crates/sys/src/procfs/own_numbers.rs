//! What `self` and `thread-self` are for another thread, in a procfs of any pid namespace.
//!
//! Both are symbolic links whose content depends on who reads them (`proc_self_get_link`, `fs/proc/self.c`): the
//! reader's number in the pid namespace of that procfs. A container's procfs is of the container's namespace, in which
//! a process of the host has no number.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, makedev, openat, openat2};
use rustix::io::Errno;

use super::{path, status};
use crate::last_error;

/// The numbers of a thread in one pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnNumbers {
    /// Of its process.
    pub process: u32,
    /// Its own.
    pub thread: u32,
}

/// The numbers that `thread` has in the pid namespace of a procfs, whose root directory is `procfs`.
///
/// # Errors
/// `EPERM` where nobody can tell: process 1 of the namespace has ended, the thread has no number in it, or the
/// namespace lies outside of this process's own.
pub fn own_numbers(procfs: BorrowedFd<'_>, thread: u32) -> Result<OwnNumbers, Errno> {
    own_numbers_or(procfs, thread).ok_or(Errno::PERM)
}

fn own_numbers_or(procfs: BorrowedFd<'_>, thread: u32) -> Option<OwnNumbers> {
    // From the namespace of this process's procfs down to the thread's own: proc_pid_status(5).
    let status = status(thread).ok()?;
    let numbers = |field| -> Option<Vec<u32>> {
        let numbers = status.get(field)?.split_whitespace();
        numbers.map(|number| number.parse().ok()).collect()
    };
    let (processes, threads) = (numbers("NStgid")?, numbers("NSpid")?);
    let own = openat(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let at = if device(procfs)? == device(own.as_fd())? {
        0
    } else {
        processes.len().checked_sub(levels(procfs, thread)? + 1)?
    };
    Some(OwnNumbers {
        process: *processes.get(at)?,
        thread: *threads.get(at)?,
    })
}

/// How many namespaces the thread's own lies below that of the procfs.
fn levels(procfs: BorrowedFd<'_>, thread: u32) -> Option<usize> {
    let wanted = namespace_of(procfs)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut namespace = openat(CWD, path(thread, "ns/pid"), flags, Mode::empty()).ok()?;
    let mut levels = 0;
    while inode(namespace.as_fd())? != inode(wanted.as_fd())? {
        namespace = parent(namespace.as_fd()).ok()?;
        levels += 1;
    }
    Some(levels)
}

/// The pid namespace of a procfs: that of its process 1. What is mounted in the procfs does not count.
fn namespace_of(procfs: BorrowedFd<'_>) -> Option<OwnedFd> {
    let strict = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let place = OFlags::PATH | OFlags::CLOEXEC;
    let directory = openat2(procfs, c"1/ns", place, Mode::empty(), strict).ok()?;
    let itself = place | OFlags::NOFOLLOW;
    openat2(
        &directory,
        c"pid",
        itself,
        Mode::empty(),
        ResolveFlags::NO_XDEV,
    )
    .ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(&directory, c"pid", flags, Mode::empty()).ok()
}

fn device(file: BorrowedFd<'_>) -> Option<u64> {
    inode(file).map(|(device, _)| device)
}

fn inode(file: BorrowedFd<'_>) -> Option<(u64, u64)> {
    let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).ok()?;
    let device = makedev(found.stx_dev_major, found.stx_dev_minor);
    Some((device, found.stx_ino))
}

/// The parent of a pid namespace; `EPERM` where that is outside of this process's own.
fn parent(namespace: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    /// `_IO(0xb7, 2)`: `ioctl_nsfs(2)`.
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    // SAFETY: NS_GET_PARENT takes no argument and touches no memory of this process; a descriptor of another kind
    // refuses it.
    let opened = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    if opened < 0 {
        return Err(last_error());
    }
    // SAFETY: `from_raw_fd` asks for an open descriptor that nobody else owns: the kernel has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::own_numbers;

    #[test]
    fn in_its_own_procfs_a_thread_has_the_numbers_that_it_sees() {
        let procfs = File::open("/proc").unwrap();
        let thread = rustix::thread::gettid().as_raw_pid().cast_unsigned();
        let found = own_numbers(procfs.as_fd(), thread).unwrap();
        assert_eq!((found.process, found.thread), (std::process::id(), thread));
    }

    #[test]
    fn another_directory_tells_nothing() {
        let root = File::open("/").unwrap();
        assert!(own_numbers(root.as_fd(), 1).is_err());
    }
}
