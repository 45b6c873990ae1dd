//! Mounts that show a directory's files with other numbers of users and groups (`mount_setattr(2)`,
//! `MOUNT_ATTR_IDMAP`, Linux 5.12). The numbers on the disk stay as they are.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::UnshareFlags;

use super::mount_attributes::{self, Which};
use super::procfs::path;

/// Mounts `directory`, with the mounts below it, on `at`: the numbers from 0 on the disk are shown as those from
/// `first` on, `count` of them. Device files in it cannot be opened.
///
/// # Errors
/// `EINVAL`: a filesystem that cannot do this, or a kernel that cannot; otherwise the call's.
pub fn mount(directory: &Path, at: &Path, first: u32, count: u32) -> io::Result<()> {
    let tree = shown(directory, first, count)?;
    let from_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree.as_fd(), "", CWD, at, from_descriptor)?;
    Ok(())
}

/// Tries whether [`mount`] can be done, and mounts nothing.
///
/// # Errors
/// Those of [`mount`].
pub fn attempt(directory: &Path, first: u32, count: u32) -> io::Result<()> {
    shown(directory, first, count).map(drop)
}

/// A copy of the mounts that is in no mount namespace yet.
fn shown(directory: &Path, first: u32, count: u32) -> io::Result<OwnedFd> {
    let users = users(first, count)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, directory, flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(users.as_raw_fd()).unwrap_or_default(),
    };
    mount_attributes::set(tree.as_fd(), Which::All, &attributes)?;
    Ok(tree)
}

/// A user namespace that maps the numbers from 0 to the host's from `first` on. No process is in it.
fn users(first: u32, count: u32) -> io::Result<OwnedFd> {
    // A process to hold the namespace: `cat` waits for the end of its input.
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let prepare = || {
        // SAFETY: `unshare_unsafe` asks that nothing relies on descriptors that a thread shares: only CLONE_FILES would
        // part these, and CLONE_NEWUSER is asked for alone.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
        Ok(())
    };
    // SAFETY: `pre_exec` asks that the closure makes only calls that are async-signal-safe, since it runs in the child
    // of a process with threads: it makes one system call, takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(prepare);
    }
    let mut child = command.spawn()?;
    let map = format!("0 {first} {count}\n");
    let opened = fs::write(path(child.id(), "uid_map"), &map)
        .and_then(|()| fs::write(path(child.id(), "gid_map"), &map))
        .and_then(|()| File::open(path(child.id(), "ns/user")));
    drop(child.stdin.take());
    child.wait()?;
    Ok(opened?.into())
}
