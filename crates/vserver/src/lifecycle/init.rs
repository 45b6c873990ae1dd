//! Process 1 of a guest: the start command itself, or a reaper that runs it.

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

/// The first process of a guest, which `libcontainer` has confined already.
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
            // `libcontainer` left descriptors of the host's open, to be closed by an exec that never comes.
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

/// What process 1 exits with where it cannot begin the command, as `libcontainer` does for the other styles.
const NOT_BEGUN: i32 = 255;

/// Runs the command, stays as long as the guest has any process, and returns the command's status.
///
/// The kernel makes process 1, which this is, the parent of every orphan of the guest. Its descriptors are in the
/// guest's `/proc` from the moment on in which the command begins.
fn reap(command: &mut Command) -> i32 {
    let Ok(started) = command.spawn() else {
        return NOT_BEGUN;
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
