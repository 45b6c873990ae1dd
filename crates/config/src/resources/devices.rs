//! `vdevmap`: devices of the host's that a guest has.

use std::path::{Path, PathBuf};

use vhashify_sys::shown::Shown;

use super::super::ConfigError;
use super::super::values::{invalid, value};
use super::directories;

/// A device of the host's that the guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its path in the guest, below `/dev`.
    pub path: PathBuf,
    /// The device of the host's that it is.
    pub target: PathBuf,
}

/// Each directory of `vdevmap` that has `open`, in the order of their names.
pub fn read(directory: &Path) -> Result<Vec<Device>, ConfigError> {
    let mut found = Vec::new();
    for place in directories(directory) {
        for (name, why) in [
            ("create", "a guest makes no device nodes; say open"),
            ("flags", "there are none"),
        ] {
            if place.join(name).exists() {
                let shown = Shown::path(&place.join(name)).to_string();
                tracing::warn!("{shown} has no effect: {why}");
            }
        }
        if !place.join("open").exists() {
            continue;
        }
        let path = place.join("device");
        let Some(device) = value(&path)? else {
            return Err(invalid(
                &path,
                "it is missing or empty; write the path of a device",
            ));
        };
        let fault = fault_in_path(&device);
        if let Some(reason) = fault {
            return Err(invalid(&path, &format!("{device:?}: {reason}")));
        }
        let target = if place.join("remap").exists() {
            let path = place.join("target");
            let missing = || {
                invalid(
                    &path,
                    "remap needs it; write the path of a device of the host",
                )
            };
            value(&path)?.ok_or_else(missing)?
        } else {
            device.clone()
        };
        found.push(Device {
            path: device.into(),
            target: target.into(),
        });
    }
    Ok(found)
}

/// Why a device of a guest cannot have this path: the guest has a device of its own there, or the path leads out of
/// `/dev`.
fn fault_in_path(path: &str) -> Option<&'static str> {
    const OURS: [&str; 15] = [
        "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
        "stderr", "stdin", "stdout", "tty", "urandom",
    ];
    let Some(below) = path.strip_prefix("/dev/") else {
        return Some("it is not below /dev");
    };
    let mut parts = below.split('/');
    if parts
        .clone()
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Some("it is not a plain path");
    }
    let first = parts.next().unwrap_or_default();
    (OURS.contains(&first) || first == "zero").then_some("every guest has that of its own")
}

#[cfg(test)]
mod tests {
    use super::fault_in_path;

    #[test]
    fn a_device_is_a_plain_path_below_dev_that_is_not_ours() {
        for good in ["/dev/fuse", "/dev/net/tun", "/dev/zero2"] {
            assert_eq!(fault_in_path(good), None, "{good}");
        }
        for bad in [
            "/dev",
            "/dev/",
            "/etc/passwd",
            "/dev/../etc/x",
            "/dev/net//tun",
            "fuse",
            "/dev/null",
            "/dev/pts/0",
            "/dev/shm/x",
            "/dev/./fuse",
            "/dev/zero",
        ] {
            assert!(fault_in_path(bad).is_some(), "{bad}");
        }
    }
}
