//! Process 1 of a guest: the start command, or a reaper that runs it.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::default::get_executor;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use vhashify_config::Style;
use vhashify_sys::process::go_on_without_others;

/// Becomes process 1 of the guest, after `libcontainer` confined it.
#[derive(Debug, Clone)]
pub struct Init {
    /// What process 1 is.
    pub style: Style,
}

impl Executor for Init {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let arguments = spec.process().as_ref().and_then(|p| p.args().as_ref());
        let Some((program, arguments)) = arguments.and_then(|all| all.split_first()) else {
            return Err(ExecutorError::InvalidArg);
        };
        let mut command = Command::new(program);
        command.args(arguments);
        super::process_attributes::apply_personality(spec)
            .map_err(|error| ExecutorError::Other(format!("personality: {error}")))?;
        match self.style {
            Style::Plain | Style::Systemd | Style::Minit => {
                Err(ExecutorError::Other(command.exec().to_string()))
            }
            // `libcontainer` leaves descriptors of the host open and expects exec to close them, but a reaper executes
            // nothing.
            Style::Sysv => go_on_without_others(move || reap(&mut command)),
        }
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        get_executor().validate(spec)
    }

    fn setup_envs(&self, variables: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        get_executor().setup_envs(variables)
    }
}

/// The exit status of process 1 if the command cannot be started, the same as `libcontainer`'s for the other styles.
const NOT_STARTED: i32 = 255;

/// Runs the command, waits until the guest's last process ends, and returns the command's status.
///
/// The kernel makes process 1 the parent of every orphan of the guest. From the command's start on the guest can see
/// this process's descriptors in its `/proc`.
fn reap(command: &mut Command) -> i32 {
    let Ok(started) = command.spawn() else {
        return NOT_STARTED;
    };
    let mut status = 0;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, ended))) if u32::try_from(pid.as_raw_pid()) == Ok(started.id()) => {
                let by_signal = ended.terminating_signal().map(|signal| 128 + signal);
                status = ended.exit_status().or(by_signal).unwrap_or(status);
            }
            Err(Errno::CHILD) => return status,
            Ok(_) | Err(_) => {}
        }
    }
}
