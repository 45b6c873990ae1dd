//! Finds running guests: processes with another root directory than this one's.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use vhashify_sys::procfs;

use super::error::GuardError;
use super::filesystem::{self, Device, Mount};

/// Finds a process with a root directory of its own on one of `devices`, or on a mount that is not listed. Passes over
/// kernel threads, whose root directory is on no listed mount since Linux 7.3.
pub fn guest_on(devices: &[Device]) -> Result<Option<(i32, String)>, GuardError> {
    let own = open_root(Path::new("/"))
        .map_err(|error| GuardError::call("open", Path::new("/"), error))?;
    let host = identity(&own).map_err(|error| GuardError::call("stat", Path::new("/"), error))?;
    let mounts = filesystem::mounts()?;
    let processes =
        procfs::processes().map_err(|error| GuardError::call("open", Path::new("/proc"), error))?;
    for process in processes {
        // The process ended meanwhile.
        let Ok(root) = open_root(&procfs::path(process, "root")) else {
            continue;
        };
        if identity(&root).is_ok_and(|root| root == host)
            || procfs::stat(process).is_ok_and(|stat| stat.is_of_kernel)
        {
            continue;
        }
        match device_of(&root, &mounts, process) {
            Some(device) if devices.contains(&device) => {
                return Ok(Some((process, device.to_string())));
            }
            Some(_) => {}
            None => return Ok(Some((process, "that is not known".to_owned()))),
        }
    }
    Ok(None)
}

fn open_root(path: &Path) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn identity(root: impl AsFd) -> rustix::io::Result<(u64, u64)> {
    rustix::fs::fstat(root).map(|stat| (stat.st_dev, stat.st_ino))
}

/// The filesystem of `root`, by this process's mounts, or else by those of `process`, which may have a mount namespace of
/// its own.
fn device_of(root: impl AsFd, mounts: &[Mount], process: i32) -> Option<Device> {
    let id = filesystem::mount_id(root).ok()?;
    let find = |mounts: &[Mount]| {
        let mount = mounts.iter().find(|mount| mount.id == id)?;
        Some(mount.device)
    };
    find(mounts).or_else(|| find(&filesystem::mounts_of(process).ok()?))
}
