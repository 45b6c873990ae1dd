//! Mounts the guest's root and its terminal in the monitor's own mount namespace.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::super::LifecycleError;
use super::super::error::Doing;
use super::super::state::StateDirectory;
use crate::context::spec;

/// The tmpfs for the mount points of a guest with users of its own.
const TMPFS: &str = "/run/vserver-users";

/// Where the monitor mounts the guest's `rootfs` or `console`. If the guest has users of its own, its root is no user
/// of the host and may not search a state directory, so the mount points are on a tmpfs.
pub fn mount_path(state: &StateDirectory, has_own_users: bool, below: &str) -> PathBuf {
    match below {
        _ if has_own_users => Path::new(TMPFS).join(below),
        "rootfs" => state.at("bundle/rootfs"),
        _ => state.at(below),
    }
}

/// Mounts the vdir without devices and, with `users`, idmapped to the host's user numbers from there on. Refuses it if
/// the path no longer leads to the directory `checked`, which the starter has checked.
pub fn mount_root(
    vdir: &Path,
    checked: &OwnedFd,
    rootfs: &Path,
    users: Option<u32>,
) -> Result<(), LifecycleError> {
    vhashify_sys::process::unshare_mounts().doing("unshare", rootfs)?;
    let root = Path::new("/");
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(root, slave).doing("mount", root)?;
    let checked = rustix::fs::fstat(checked).doing("stat", vdir)?;
    if let Some(first) = users {
        mount_tmpfs()?;
        vhashify_sys::idmap::mount(vdir, rootfs, first, spec::USERS)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => io::Error::other(
                    "spaces/user needs a filesystem that can show its files under other numbers (ext4 \
                     and XFS since Linux 5.12, Btrfs since 5.15, tmpfs since 6.3), also for what is \
                     mounted below; move the guest there, or remove spaces/user",
                ),
                _ => error,
            })
            .doing("mount_setattr", vdir)?;
    } else {
        rustix::mount::mount_bind_recursive(vdir, rootfs).doing("mount", rootfs)?;
    }
    let found = rustix::fs::stat(rootfs).doing("stat", rootfs)?;
    if (found.st_dev, found.st_ino) != (checked.st_dev, checked.st_ino) {
        let moved = io::Error::other("it was moved meanwhile");
        return Err(moved).doing("mount", vdir);
    }
    let mounted = rustix::fs::statvfs(rootfs).doing("statvfs", rootfs)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::NODEV;
    for (has, keeps) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if mounted.contains(has) {
            flags |= keeps;
        }
    }
    rustix::mount::mount_remount(rootfs, flags, c"").doing("mount", rootfs)
}

/// Mounts [`TMPFS`] in this process's mount namespace.
fn mount_tmpfs() -> Result<(), LifecycleError> {
    let directory = Path::new(TMPFS);
    fs::create_dir_all(directory).doing("mkdir", directory)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", directory, "tmpfs", flags, c"mode=711,size=64k")
        .doing("mount", directory)?;
    let rootfs = directory.join("rootfs");
    fs::create_dir(&rootfs).doing("mkdir", &rootfs)
}

/// Mounts a terminal on the path that the specification names: the starter wrote that before the terminal existed.
pub fn show_terminal(terminal: &Path, path: &Path) -> Result<(), LifecycleError> {
    drop(fs::remove_file(path));
    fs::File::create(path).doing("create", path)?;
    rustix::mount::mount_bind(terminal, path).doing("mount", path)
}

/// Unmounts the guest's root and its terminal, so that their mount points can be removed and the guest's filesystem is
/// no longer in use when the guest counts as stopped.
pub fn unmount(state: &StateDirectory) {
    let points = ["bundle/rootfs", "console"].map(|point| state.at(point));
    for point in points
        .iter()
        .map(PathBuf::as_path)
        .chain([Path::new(TMPFS)])
    {
        // The monitor that made the guest has the first two mounted, or the tmpfs if the guest has users of its own. Its
        // successor has none.
        let _ = rustix::mount::unmount(point, UnmountFlags::DETACH);
    }
}
