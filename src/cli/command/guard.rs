//! `vhashify guard …`: does it and shows the guard as it is then.

use std::fmt::Write as _;
use std::path::Path;

use vhashify_config::running::running_guests;

use super::{Failure, print};
use crate::Error;
use crate::cli::args::{Common, GuardCommand};
use crate::cli::output::Text;
use crate::cli::selection;
use crate::outcome::FileError;
use crate::outcome::numbers::grouped;
use crate::protect::guard::{GuardError, Status, guards, load, status, unload};
use crate::protect::{self, Mode};

/// Runs the command and gives the exit status.
pub fn run(common: &Common, command: &GuardCommand) -> Result<u8, Failure> {
    match command {
        GuardCommand::Load => {
            let stores = selection::stores(common)?;
            load().map_err(Error::from)?;
            for store in stores {
                protect::choose(Mode::Lsm, &store.path)?;
            }
        }
        GuardCommand::Status => {}
        GuardCommand::Unload {
            force,
            vserver_state_dir,
        } => {
            if !force {
                no_guest_runs(vserver_state_dir)?;
            }
            unload(*force).map_err(Error::from)?;
        }
    }
    let status = status().map_err(Error::from)?;
    Ok(print(common, &status, &status))
}

/// Refuses where a guest of `vserver` is running on a guarded filesystem, or being started: that one has
/// no process yet by which it could be found.
fn no_guest_runs(state_dir: &Path) -> Result<(), Failure> {
    for (name, running) in running_guests(state_dir).map_err(Error::from)? {
        if guards(&running.vdir).map_err(Error::from)? {
            let context = running.context;
            return Err(Error::from(GuardError::GuestRuns { name, context }).into());
        }
    }
    Ok(())
}

/// How many of the last refusals people are shown.
const SHOWN: usize = 5;

impl Text for Status {
    fn text(&self, is_verbose: bool) -> String {
        if !self.loaded {
            return "the guard is not loaded".to_owned();
        }
        let refusals: u64 = self.hooks.iter().map(|hook| hook.refusals).sum();
        let mut text = format!("the guard is loaded, {} refusals", grouped(refusals));
        for filesystem in &self.filesystems {
            let mounts = filesystem.mounts.join(" ");
            let _ = write!(text, "\nfilesystem {:<12} {mounts}", filesystem.device);
        }
        for hook in &self.hooks {
            let count = grouped(hook.refusals);
            if !hook.attached {
                let _ = write!(text, "\n{:<18} this kernel does not have it", hook.name);
            } else if is_verbose || hook.refusals > 0 {
                let _ = write!(text, "\n{:<18} {count:>12} refusals", hook.name);
            }
        }
        let shown = if is_verbose { usize::MAX } else { SHOWN };
        for refusal in self.last_refusals.iter().take(shown) {
            let _ = write!(
                text,
                "\nrefused {} to {} (pid {}, cgroup {}): inode {} of {}",
                refusal.hook,
                vhashify_sys::shown::Shown::bytes(refusal.command.as_bytes()),
                refusal.pid,
                refusal.cgroup,
                refusal.inode,
                refusal.device
            );
        }
        text
    }

    fn errors(&self) -> Vec<&FileError> {
        Vec::new()
    }
}
