//! Mounts that show a directory's files under other users' and groups' numbers
//! (`mount_setattr(2)`, `MOUNT_ATTR_IDMAP`, Linux 5.12). What is on the disk stays as it is.

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

/// Mounts `directory`, with what is mounted below it, on `at`: its numbers from 0 are those of the host
/// from `first` on, `count` of them. No device in it works.
///
/// # Errors
/// `EINVAL`: a filesystem that cannot do this, or a kernel that cannot; otherwise the call's.
pub fn mount(directory: &Path, at: &Path, first: u32, count: u32) -> io::Result<()> {
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
    let from_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree.as_fd(), "", CWD, at, from_descriptor)?;
    Ok(())
}

/// A user namespace in which numbers from 0 are the host's from `first` on. No process is in it.
fn users(first: u32, count: u32) -> io::Result<OwnedFd> {
    // It waits for the end of its input, and does nothing else.
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let prepare = || {
        // SAFETY: a user namespace of its own takes nothing from this process but its powers.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec, where only calls that are safe in a signal
    // handler may be made: it makes one system call, takes no lock and allocates nothing.
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
