//! Makes a new guest: its files by one of several methods, and its configuration.
//!
//! ```text
//! ROOTDIR/.NAME.building/   the vdir while it is filled     ─ rename ─▶ ROOTDIR/NAME
//! CONFDIR/.NAME.building/   its configuration               ─ rename ─▶ CONFDIR/NAME
//! ```
//!
//! A hidden name is never a guest. So a build that fails or is killed never leaves half a guest, and the next build of
//! that name removes the remains of a killed one. `ROOTDIR` is made with mode 0700, so that users of the host reach no file
//! of a guest.

mod clone;
mod configuration;
mod fill;
mod import;
mod left_out;
mod members;
mod oci;
mod remove;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub use configuration::Options;
pub use fill::Method;
pub use import::{Import, import};
pub use remove::delete;

use super::error::Doing;
use super::{LifecycleError, StateDirectory, exposure};
use vhashify_config::ConfigTree;

/// What to build.
#[derive(Debug)]
pub struct Plan {
    /// How the vdir is filled.
    pub method: Method,
    /// The directory in which the vdir is made; by default the tree's `vdirbase`.
    pub root_dir: Option<PathBuf>,
    /// Options that become settings.
    pub options: Options,
    /// Rename an existing guest of that name instead of refusing.
    pub force: bool,
    /// Keep the files of a failed build for inspection.
    pub keep: bool,
}

/// Builds the guest.
///
/// # Errors
/// A guest of that name exists, or the method failed or was interrupted. Then nothing is left, unless
/// [`keep`](Plan::keep) says so.
pub fn build(tree: &ConfigTree, state: &StateDirectory, plan: &Plan) -> Result<(), LifecycleError> {
    let name = state.name();
    let _lock = state.lock()?;
    let vdir = match &plan.root_dir {
        Some(base) => std::path::absolute(base).doing("look at", base)?.join(name),
        None => tree.default_vdir(name.as_ref())?,
    };
    let configuration = tree.top().join(name);
    let hidden = |path: &Path| path.with_file_name(format!(".{name}.building"));
    let (new_vdir, new_configuration) = (hidden(&vdir), hidden(&configuration));
    for path in [&vdir, &configuration] {
        if path.symlink_metadata().is_ok() && !plan.force {
            return Err(LifecycleError::Build {
                name: name.to_owned(),
                reason: format!(
                    "{} is there already; delete it, or say --force to have it moved away",
                    path.display()
                )
                .into(),
            });
        }
    }
    // Whatever the method mounts ends with this process.
    vhashify_sys::process::unshare_mounts().doing("unshare", &vdir)?;
    let private =
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).doing("mount", Path::new("/"))?;
    if let Some(base) = vdir.parent() {
        make_base(base)?;
    }
    // debootstrap begins by making some.
    if !matches!(plan.method, Method::Debootstrap { .. }) {
        left_out::make_no_device_nodes().doing("capset", &vdir)?;
    }
    for stale in [&new_vdir, &new_configuration] {
        remove::tree(stale)?;
    }
    let made = fill::fill(tree, state, &plan.method, &new_vdir)
        .and_then(|()| configuration::write(&new_configuration, name, &vdir, &plan.options))
        .and_then(|()| {
            put_in_place(
                plan,
                [(&new_vdir, &vdir), (&new_configuration, &configuration)],
            )
        });
    if made.is_err() && !plan.keep {
        for path in [&new_vdir, &new_configuration] {
            remove::tree(path)?;
        }
    }
    made?;
    exposure::warn(name, &vdir);
    Ok(())
}

/// Makes the directory of all guests, closed to the host's users: a guest's setuid program would be root for them, too.
/// One that is there stays as it is.
fn make_base(base: &Path) -> Result<(), LifecycleError> {
    if base.is_dir() {
        return Ok(());
    }
    if let Some(above) = base.parent() {
        fs::create_dir_all(above).doing("mkdir", above)?;
    }
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).create(base).doing("mkdir", base)
}

fn put_in_place(plan: &Plan, moves: [(&PathBuf, &PathBuf); 2]) -> Result<(), LifecycleError> {
    for (from, to) in moves {
        remove::unmount_below(from)?;
        if plan.force && to.symlink_metadata().is_ok() {
            let name = to.file_name().unwrap_or_default().to_string_lossy();
            let aside = to.with_file_name(format!(".{name}.{}", super::state::now()));
            fs::rename(to, &aside).doing("rename", to)?;
            tracing::warn!("what was in {} is in {}", to.display(), aside.display());
        }
        fs::rename(from, to).doing("rename", to)?;
    }
    Ok(())
}
