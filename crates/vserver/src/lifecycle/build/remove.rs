//! Removes guests and the remains of failed builds, but never a file of another filesystem.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vhashify_config::{ConfigTree, GuestSettings};
use vhashify_sys::procfs;

use super::super::error::Doing;
use super::super::observe::{GuestState, mend};
use super::super::start::checks::open_vdir;
use super::super::{LifecycleError, StateDirectory};

/// Removes a guest that does not run: its configuration first, then its files.
///
/// # Errors
/// The guest runs, shares its vdir with another one, has something mounted in it, or holds the configuration, the state
/// or a store.
pub fn delete(
    tree: &ConfigTree,
    settings: &GuestSettings,
    state: &StateDirectory,
) -> Result<(), LifecycleError> {
    let _lock = state.lock()?;
    let name = &settings.name;
    if let GuestState::Running(running, _) | GuestState::Starting(running) = mend(state)? {
        let (name, context) = (name.clone(), running.context);
        return Err(LifecycleError::AlreadyRunning { name, context });
    }
    open_vdir(tree, settings)?;
    let refuse = |reason: String| LifecycleError::Vdir {
        name: name.clone(),
        vdir: settings.vdir.clone(),
        reason,
    };
    let mut kept = vec![tree.top().to_path_buf(), state.top().to_path_buf()];
    kept.extend(
        tree.all_stores()
            .into_iter()
            .flatten()
            .map(|store| store.directory),
    );
    for path in kept {
        let path = fs::canonicalize(&path).unwrap_or(path);
        if path.starts_with(&settings.vdir) {
            return Err(refuse(format!(
                "{} lies in it; move that out of it",
                path.display()
            )));
        }
    }
    if let Some(mount) = mounts_below(&settings.vdir)?.first() {
        return Err(refuse(format!(
            "something is mounted on {}; unmount it",
            mount.display()
        )));
    }
    // After the renames it is no guest any more, even if somebody interrupts this.
    let hidden = |path: &Path| path.with_file_name(format!(".{name}.deleting"));
    let (configuration, vdir) = (hidden(&settings.directory), hidden(&settings.vdir));
    for stale in [&configuration, &vdir] {
        self::tree(stale)?;
    }
    fs::rename(&settings.directory, &configuration).doing("rename", &settings.directory)?;
    fs::rename(&settings.vdir, &vdir).doing("rename", &settings.vdir)?;
    self::tree(&vdir)?;
    self::tree(&configuration)?;
    for below in [
        "console.log",
        "console.log.1",
        "monitor.log",
        "monitor.log.1",
        "last.json",
        "reboot.json",
        "lock",
    ] {
        drop(fs::remove_file(state.at(below)));
    }
    drop(fs::remove_dir(state.at("")));
    Ok(())
}

/// Removes a directory and everything in it that is on its own filesystem.
pub fn tree(directory: &Path) -> Result<(), LifecycleError> {
    if directory.symlink_metadata().is_err() {
        return Ok(());
    }
    unmount_below(directory)?;
    let output = Command::new("rm")
        .args(["--recursive", "--force", "--one-file-system", "--"])
        .arg(directory)
        .stdin(Stdio::null())
        .output()
        .doing("run rm", directory)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("rm failed").to_owned();
    Err(io::Error::other(first)).doing("removal", directory)
}

/// Unmounts every mount below a directory, the innermost first.
pub fn unmount_below(directory: &Path) -> Result<(), LifecycleError> {
    for mount in mounts_below(directory)?.into_iter().rev() {
        let detach = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(&mount, detach).doing("umount", &mount)?;
    }
    Ok(())
}

/// The mount points below a directory, in the order in which they were mounted.
fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>, LifecycleError> {
    let mounts = procfs::mounts("self").doing("read", &procfs::path("self", "mountinfo"))?;
    let found = mounts.iter().map(procfs::Mount::path);
    Ok(found.filter(|place| place.starts_with(directory)).collect())
}
