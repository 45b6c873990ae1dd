//! `scripts/`: the administrator's programs for each stage of a guest's start and stop.
//!
//! ```text
//! start   prepre-start ─ checks, context ─ pre-start ─ init ─ post-start ─ postpost-start
//! stop    prepre-stop ─ pre-stop ─ signals until nothing is left ─ post-stop ─ postpost-stop
//! ```
//!
//! A stage runs the guest's `scripts/STAGE`, then the files in its `scripts/STAGE.d` by name, then the same of
//! `.defaults/scripts`, as far as they are executable. A hook gets the stage and the guest's name as arguments,
//! runs in the guest's configuration directory on the host, and has the variables `VSERVER_NAME`, `VSERVER_DIR`
//! (that directory) and `VSERVER_VDIR`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vhashify_config::GuestSettings;

use super::LifecycleError;
use super::error::Doing;

/// Runs the hooks of one stage.
///
/// # Errors
/// [`LifecycleError::Hook`] for the first hook that does not exit with status 0.
pub fn run(settings: &GuestSettings, stage: &str) -> Result<(), LifecycleError> {
    for hook in of_stage(settings, stage) {
        let status = Command::new(&hook)
            .args([stage, &settings.name])
            .current_dir(&settings.directory)
            .env("VSERVER_NAME", &settings.name)
            .env("VSERVER_DIR", &settings.directory)
            .env("VSERVER_VDIR", &settings.vdir)
            .stdin(Stdio::null())
            .status()
            .doing("run", &hook)?;
        if !status.success() {
            let status = status.to_string();
            return Err(LifecycleError::Hook { path: hook, status });
        }
    }
    Ok(())
}

fn of_stage(settings: &GuestSettings, stage: &str) -> Vec<PathBuf> {
    let defaults = settings.directory.with_file_name(".defaults");
    let mut found = Vec::new();
    for place in [&settings.directory, &defaults] {
        let scripts = place.join("scripts");
        found.push(scripts.join(stage));
        let listed = fs::read_dir(scripts.join(format!("{stage}.d")));
        let mut listed: Vec<PathBuf> = listed
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        listed.sort();
        found.extend(listed);
    }
    found.retain(|path| is_executable(path));
    found
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
