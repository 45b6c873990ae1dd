//! Process 1 of a guest: the start command itself, or a reaper that runs it.

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::default::get_executor;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use vhashify_config::Style;

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
            Style::Sysv => reap(&mut command),
        }
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        get_executor().validate(spec)
    }

    fn setup_envs(&self, variables: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        get_executor().setup_envs(variables)
    }
}

/// Runs the command, stays as long as the guest has any process, and ends as the command did.
///
/// The kernel makes process 1, which this is, the parent of every orphan of the guest.
fn reap(command: &mut Command) -> Result<(), ExecutorError> {
    let started = command
        .spawn()
        .map_err(|error| ExecutorError::Other(error.to_string()))?;
    let mut status = 0;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, ended))) if u32::try_from(pid.as_raw_pid()) == Ok(started.id()) => {
                let by_signal = ended.terminating_signal().map(|signal| 128 + signal);
                status = ended.exit_status().or(by_signal).unwrap_or(status);
            }
            Err(Errno::CHILD) => exit(status),
            Ok(_) | Err(_) => {}
        }
    }
}
