//! Removes what is left of a guest whose init is gone: network devices, processes, cgroups, state.

use std::time::{Duration, Instant};

use vhashify_config::running::{Ended, Running};
use vhashify_sys::pidfd::Process;

use super::LifecycleError;
use super::state::StateDirectory;
use crate::context::cgroup;
use crate::network;

/// How long this may take.
pub const TIDYING: Duration = Duration::from_secs(10);

/// Removes it, and writes down how the guest ended.
///
/// # Errors
/// A device or a process does not go away within [`TIDYING`]; the state directory cannot be written. What is left
/// is left to the next who tries.
pub fn tidy(state: &StateDirectory, running: &Running, ended: Ended) -> Result<(), LifecycleError> {
    // Of an earlier boot, only files can be left; its numbers may be somebody else's by now.
    if running.is_of_this_boot() {
        network::take_down(running.context).map_err(|error| LifecycleError::Refused {
            name: state.name().to_owned(),
            reason: error.into(),
        })?;
        remove_cgroups(state, running.context)?;
    }
    state.write_ended(ended)
}

/// Kills whatever is in the guest's cgroups until they can be removed.
fn remove_cgroups(state: &StateDirectory, context: u32) -> Result<(), LifecycleError> {
    let begun = Instant::now();
    while !cgroup::remove(context) {
        cgroup::kill(context);
        for pid in cgroup::processes(context) {
            if let Some(process) = Process::find(pid) {
                process.signal(libc::SIGKILL);
            }
        }
        if begun.elapsed() > TIDYING {
            return Err(LifecycleError::DoesNotEnd {
                name: state.name().to_owned(),
            });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
