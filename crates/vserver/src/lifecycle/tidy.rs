//! Removes what is left of a guest whose init has ended: network devices, processes, cgroups, state.

use std::time::{Duration, Instant};

use vhashify_config::running::{Ended, Running};
use vhashify_sys::pidfd::Process;

use super::LifecycleError;
use super::state::StateDirectory;
use crate::context::cgroup;
use crate::network;

/// How long processes and cgroups may take to go.
pub const TIDY_TIMEOUT: Duration = Duration::from_secs(10);

/// Removes it, and records how the guest ended.
///
/// # Errors
/// A device cannot be removed, a process does not end within [`TIDY_TIMEOUT`], or the state directory cannot be
/// written. The next call removes the rest.
pub fn tidy(state: &StateDirectory, running: &Running, ended: Ended) -> Result<(), LifecycleError> {
    // An earlier boot leaves only files. Its numbers may be another guest's by now.
    if running.is_of_this_boot() {
        network::take_down(running.context).map_err(|error| LifecycleError::Refused {
            name: state.name().to_owned(),
            reason: error.into(),
        })?;
        remove_cgroups(state, running.context)?;
    }
    state.write_ended(ended)
}

/// Kills every process in the guest's cgroups until they can be removed.
fn remove_cgroups(state: &StateDirectory, context: u32) -> Result<(), LifecycleError> {
    let begun = Instant::now();
    while !cgroup::remove(context) {
        cgroup::kill(context);
        for pid in cgroup::processes(context) {
            if let Some(process) = Process::find(pid) {
                process.signal(libc::SIGKILL);
            }
        }
        if begun.elapsed() > TIDY_TIMEOUT {
            return Err(LifecycleError::DoesNotEnd {
                name: state.name().to_owned(),
            });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
