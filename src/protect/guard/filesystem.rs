//! Finds the filesystem that a directory lies on, by the device number of the superblock.
//!
//! `stat(2)` does not return it: on Btrfs each subvolume has a device number of its own, and only
//! `/proc/PID/mountinfo` shows that of the superblock.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags};
use vhashify_sys::procfs;

use super::error::GuardError;

/// A device number in the kernel's own format (`dev_t`): the major number above 20 bits of minor number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device(pub u32);

impl Device {
    fn new(major: u32, minor: u32) -> Option<Self> {
        (major < 1 << 12 && minor < 1 << 20).then_some(Self(major << 20 | minor))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.0 >> 20, self.0 & 0xf_ffff)
    }
}

/// A mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    pub id: u64,
    pub device: Device,
    /// As the kernel prints it, with `\040` for a space.
    pub point: String,
}

/// The mounts that this process sees.
pub fn mounts() -> Result<Vec<Mount>, GuardError> {
    mounts_of("self").map_err(cannot_read)
}

/// The mounts that a process sees.
pub fn mounts_of(process: impl fmt::Display) -> std::io::Result<Vec<Mount>> {
    let all = procfs::mounts(process)?;
    Ok(all.iter().filter_map(Mount::of).collect())
}

impl Mount {
    fn of(mount: &procfs::Mount) -> Option<Self> {
        let (major, minor) = mount.device;
        Some(Self {
            id: mount.id,
            device: Device::new(major, minor)?,
            point: String::from_utf8_lossy(&mount.point).into_owned(),
        })
    }
}

fn cannot_read(error: std::io::Error) -> GuardError {
    GuardError::call("read", &procfs::path("self", "mountinfo"), error)
}

/// The mount that an open file belongs to.
pub fn mount_id(file: impl AsFd) -> rustix::io::Result<u64> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
}

/// The filesystem that `directory` lies on.
pub fn device(directory: impl AsFd, path: &Path) -> Result<Device, GuardError> {
    let id = mount_id(directory).map_err(|error| GuardError::call("statx", path, error))?;
    let mount = mounts()?.into_iter().find(|mount| mount.id == id);
    mount.map(|mount| mount.device).ok_or_else(|| {
        cannot_read(std::io::Error::other(
            "the mount of the directory is not listed",
        ))
    })
}

#[cfg(test)]
mod tests {
    use vhashify_sys::procfs::parse_mounts;

    use super::{Device, Mount};

    #[test]
    fn a_mount_keeps_its_device_and_its_place_as_the_kernel_prints_it() {
        let text = b"36 35 98:1048575 / /a\\040b rw,noatime master:1 - ext4 /dev/root rw\n\
                     37 35 0:52 /sub / rw - btrfs /dev/x rw\n\
                     38 35 4096:0 / / rw - x x x\n";
        let mounts: Vec<_> = parse_mounts(text).iter().filter_map(Mount::of).collect();
        let seen: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.id, mount.device.to_string(), mount.point.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (36, "98:1048575".to_owned(), "/a\\040b"),
                (37, "0:52".to_owned(), "/")
            ]
        );
        assert_eq!(mounts[1].device, Device(52));
    }
}
