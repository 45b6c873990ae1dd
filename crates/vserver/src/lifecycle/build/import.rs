//! Writes a guest's configuration directory from its old-style `NAME.conf`.

use std::fs;
use std::path::{Path, PathBuf};

use vhashify_config::{ConfigTree, OldStyle};
use vhashify_sys::shown::Shown;

use super::super::error::Doing;
use super::super::{LifecycleError, StateDirectory};
use super::configuration::{self, Options};
use super::remove;

/// What to import.
#[derive(Debug, Default)]
pub struct Import {
    /// The file; by default `NAME.conf` at the top of the tree.
    pub file: Option<PathBuf>,
    /// Which branch of `case $PROFILE` to take.
    pub profile: Option<String>,
    /// The directory that holds the guest's root directory; by default the tree's `vdirbase`.
    pub root_dir: Option<PathBuf>,
}

/// Imports the guest. The file stays as it is.
///
/// # Errors
/// The guest is configured already, it has no root directory, or the file has a line that cannot be imported. Then
/// nothing is written.
pub fn import(
    tree: &ConfigTree,
    state: &StateDirectory,
    order: &Import,
) -> Result<(), LifecycleError> {
    let name = state.name();
    let refused = |reason: String| LifecycleError::Import {
        name: name.to_owned(),
        reason: reason.into(),
    };
    let _lock = state.lock()?;
    let directory = tree.top().join(name);
    if directory.symlink_metadata().is_ok() {
        let path = Shown::path(&directory).to_string();
        return Err(refused(format!(
            "{path} is there already; move it away first"
        )));
    }
    let beside = |suffix: &str| tree.top().join(format!("{name}{suffix}"));
    let file = order.file.clone().unwrap_or_else(|| beside(".conf"));
    let old = OldStyle::read(&file, order.profile.as_deref())?;
    let vdir = match &order.root_dir {
        Some(base) => std::path::absolute(base).doing("look at", base)?.join(name),
        None => tree.default_vdir(name.as_ref())?,
    };
    if !vdir.is_dir() {
        return Err(refused(format!(
            "its root directory {} is not there; say --rootdir DIR where it lies elsewhere",
            Shown::path(&vdir)
        )));
    }
    for warning in &old.warnings {
        tracing::warn!("{}: {warning}", Shown::path(&file));
    }
    let script = beside(".sh");
    if script.exists() {
        tracing::warn!(
            "{} is not run any more: put what it does into scripts/pre-start and scripts/post-stop",
            Shown::path(&script)
        );
    }
    let hidden = directory.with_file_name(format!(".{name}.importing"));
    remove::tree(&hidden)?;
    let written = write(&hidden, name, &vdir, &old)
        .and_then(|()| fs::rename(&hidden, &directory).doing("rename", &directory));
    if written.is_err() {
        remove::tree(&hidden)?;
    }
    written
}

fn write(at: &Path, name: &str, vdir: &Path, old: &OldStyle) -> Result<(), LifecycleError> {
    configuration::write(at, name, vdir, &Options::default())?;
    for (setting, value) in &old.settings {
        let path = at.join(setting);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).doing("mkdir", directory)?;
        }
        let text = if value.is_empty() {
            String::new()
        } else {
            format!("{value}\n")
        };
        fs::write(&path, text).doing("write", &path)?;
    }
    Ok(())
}
