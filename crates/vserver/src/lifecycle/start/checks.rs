//! Checks a guest's settings before anything of the guest exists: vdir, mount points, start command, style,
//! capabilities, devices.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use vhashify_config::{ConfigTree, GuestSettings, Style, capabilities};

use super::super::LifecycleError;
use super::super::error::Doing;
use crate::context::{cgroup, spec};

/// What the settings of a guest resolve to on this host.
#[derive(Debug)]
pub struct Checked {
    /// The vdir, opened with `O_PATH`: its path may lead elsewhere by the time it is mounted.
    pub vdir: OwnedFd,
    /// The program of its process 1, and its arguments.
    pub arguments: Vec<String>,
    /// The bounding set of all its processes.
    pub capabilities: CapabilitySet,
    /// Its device nodes.
    pub devices: Vec<spec::DeviceNode>,
}

/// Checks the settings in the order in which an administrator would correct them. `command` runs in place of the
/// start command.
pub fn check(
    tree: &ConfigTree,
    settings: &GuestSettings,
    command: Option<Vec<String>>,
) -> Result<Checked, LifecycleError> {
    let vdir = open_vdir(tree, settings)?;
    check_mount_points(settings, &vdir)?;
    let arguments = match command {
        Some(command) => command,
        None => start_command(settings, &vdir)?,
    };
    if settings.init.style.boots() && !cgroup::has_unified() {
        return Err(LifecycleError::Start {
            name: settings.name.clone(),
            reason: "an init that boots a guest needs cgroup version 2, which is not mounted on this \
                     host; mount it (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified), or write plain \
                     into apps/init/style"
                .to_owned(),
        });
    }
    let capabilities = capabilities::of_guest(&settings.capabilities).map_err(|error| {
        LifecycleError::Setting {
            path: settings.directory.join("bcapabilities"),
            reason: error.to_string(),
        }
    })?;
    Ok(Checked {
        vdir,
        arguments,
        capabilities,
        devices: device_nodes(settings)?,
    })
}

/// Opens the vdir, and refuses one that is the host's root or overlaps another guest's.
pub fn open_vdir(tree: &ConfigTree, settings: &GuestSettings) -> Result<OwnedFd, LifecycleError> {
    let refuse = |reason: String| LifecycleError::Vdir {
        name: settings.name.clone(),
        vdir: settings.vdir.clone(),
        reason,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let vdir =
        rustix::fs::open(&settings.vdir, flags, Mode::empty()).doing("open", &settings.vdir)?;
    let own = rustix::fs::fstat(&vdir).doing("stat", &settings.vdir)?;
    let host = fs::metadata("/").doing("stat", Path::new("/"))?;
    if (own.st_dev, own.st_ino) == (host.dev(), host.ino()) {
        return Err(refuse(
            "it is the host's root directory; point the guest's vdir to one of its own".into(),
        ));
    }
    for other in tree.all_names()? {
        if other == *settings.name {
            continue;
        }
        // Another guest whose configuration is broken must not keep this one from starting.
        let Ok(path) = tree.vdir(&other) else {
            continue;
        };
        let other = other.to_string_lossy();
        let is_same = fs::metadata(&path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (own.st_dev, own.st_ino));
        if is_same {
            return Err(refuse(format!(
                "the guest {other} has the same; point one of them to a directory of its own"
            )));
        }
        if path.starts_with(&settings.vdir) || settings.vdir.starts_with(&path) {
            return Err(refuse(format!(
                "it and that of the guest {other} lie in one another; move one of them"
            )));
        }
    }
    Ok(vdir)
}

/// Refuses a symbolic link at or above a mount point in the guest: it would lead the mount, and the device nodes
/// made in it, elsewhere.
fn check_mount_points(settings: &GuestSettings, vdir: &OwnedFd) -> Result<(), LifecycleError> {
    for point in spec::mount_points(settings) {
        let below = point.trim_start_matches('/');
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(vdir, below, flags, Mode::empty(), resolve) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(_) => {
                return Err(LifecycleError::Vdir {
                    name: settings.name.clone(),
                    vdir: settings.vdir.clone(),
                    reason: format!(
                        "{point} in it is, or is behind, a symbolic link; replace it by a directory"
                    ),
                });
            }
        }
    }
    Ok(())
}

/// `cmd.start`, or the default of the style.
fn start_command(settings: &GuestSettings, vdir: &OwnedFd) -> Result<Vec<String>, LifecycleError> {
    if let Some(command) = &settings.init.start {
        return Ok(command.clone());
    }
    let runlevel = settings.init.runlevel.as_deref().unwrap_or("3");
    let candidates: &[&[&str]] = match settings.init.style {
        Style::Plain => &[&["/sbin/init"]],
        Style::Systemd => &[
            &["/lib/systemd/systemd"],
            &["/usr/lib/systemd/systemd"],
            &["/sbin/init"],
        ],
        Style::Minit => &[&["/sbin/minit"]],
        Style::Sysv => &[&["/etc/init.d/rc", runlevel], &["/etc/rc.d/rc", runlevel]],
    };
    let is_there = |candidate: &&&[&str]| {
        let below = candidate[0].trim_start_matches('/');
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(vdir, below, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
    };
    match candidates.iter().find(is_there) {
        Some(found) => Ok(found.iter().map(|&argument| argument.to_owned()).collect()),
        None => Err(LifecycleError::Start {
            name: settings.name.clone(),
            reason: format!(
                "it has no {}; write its start command into {}, one argument a line",
                candidates[0][0],
                settings.directory.join("apps/init/cmd.start").display()
            ),
        }),
    }
}

/// Looks up the devices of `vdevmap` on this host.
fn device_nodes(settings: &GuestSettings) -> Result<Vec<spec::DeviceNode>, LifecycleError> {
    let mut nodes = Vec::new();
    for device in &settings.resources.devices {
        let refuse = |reason: String| LifecycleError::Setting {
            path: settings.directory.join("vdevmap"),
            reason: format!("{}: {reason}", device.target.display()),
        };
        let found = fs::metadata(&device.target)
            .map_err(|error| refuse(vhashify_sys::call_error::reason(&error)))?;
        let kind = FileType::from_raw_mode(found.mode());
        let is_block = kind == FileType::BlockDevice;
        if !is_block && kind != FileType::CharacterDevice {
            return Err(refuse("it is no device".to_owned()));
        }
        if is_block {
            tracing::warn!(
                "{} has the disk {}: it reaches all that is on it, past every protection",
                settings.name,
                device.target.display()
            );
        }
        nodes.push(spec::DeviceNode {
            path: device.path.clone(),
            is_block,
            number: (
                rustix::fs::major(found.rdev()),
                rustix::fs::minor(found.rdev()),
            ),
            mode: found.mode() & 0o777,
            owner: (found.uid(), found.gid()),
        });
    }
    Ok(nodes)
}
