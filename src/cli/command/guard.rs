//! `vhashify guard …`: does it and shows the guard as it is then.

use std::path::Path;

use vhashify_config::running::running_guests;

use crate::cli::args::{Common, GuardCommand};
use crate::cli::failure::Failure;
use crate::cli::print::print;
use crate::cli::selection;
use crate::protect::guard::{GuardError, guards, load, status, unload};
use crate::protect::{self, Mode};

/// Runs the command and gives the exit status.
pub fn run(common: &Common, command: &GuardCommand) -> Result<u8, Failure> {
    match command {
        GuardCommand::Load => {
            let stores = selection::stores(common)?;
            load()?;
            for store in stores {
                protect::enable(Mode::Lsm, &store.path)?;
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
            unload(*force)?;
        }
    }
    let status = status()?;
    Ok(print(common, &status, &status))
}

/// Refuses where a guest of `vserver` is running on a guarded filesystem, or being started: that one has
/// no process yet by which it could be found.
fn no_guest_runs(state_dir: &Path) -> Result<(), Failure> {
    for (name, running) in running_guests(state_dir)? {
        if guards(&running.vdir)? {
            let context = running.context;
            return Err(GuardError::GuestRuns { name, context }.into());
        }
    }
    Ok(())
}
