//! What becomes process 1 of a guest: its start command, or a reaper that runs it.
//!
//! Either way it is executed: what the process was before, a copy of the monitor, is gone with its memory, and with its
//! descriptors, which `libcontainer` leaves open until then. The monitor knows when: one of these descriptors is the end of a
//! pipe ([`Executed`]).

use std::collections::HashMap;
use std::ffi::{CString, OsString};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::default::get_executor;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use rustix::pipe::{PipeFlags, pipe_with};
use vhashify_sys::process::execute;

/// Becomes process 1 of the guest, after `libcontainer` confined it.
#[derive(Debug, Clone)]
pub struct Init {
    /// The reaper, for the style that has it: it executes the start command. Else the command itself is process 1.
    pub reaper: Option<Arc<OwnedFd>>,
    /// Says why nothing can be executed.
    pub failed: Arc<OwnedFd>,
}

impl Executor for Init {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let error = self.become_init(spec);
        let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
        if let Ok(failed) = self.failed.try_clone() {
            drop(io::PipeWriter::from(failed).write_all(&errno.to_ne_bytes()));
        }
        Err(ExecutorError::Other(error.to_string()))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        get_executor().validate(spec)
    }

    fn setup_envs(&self, variables: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        get_executor().setup_envs(variables)
    }
}

impl Init {
    /// Executes the program. Returns why it cannot.
    fn become_init(&self, spec: &Spec) -> io::Error {
        let process = spec.process().as_ref();
        let Some(words) = process.and_then(|process| process.args().clone()) else {
            return io::ErrorKind::InvalidInput.into();
        };
        if let Err(error) = super::process_attributes::apply_personality(spec) {
            return error;
        }
        let Some(reaper) = &self.reaper else {
            let Some((program, arguments)) = words.split_first() else {
                return io::ErrorKind::InvalidInput.into();
            };
            return Command::new(program).args(arguments).exec();
        };
        let words = [REAPER.to_owned()].into_iter().chain(words);
        let variables = std::env::vars_os().map(|(name, value)| {
            let mut variable = name;
            variable.push("=");
            variable.push(value);
            variable
        });
        match (c_strings(words), c_strings(variables)) {
            (Ok(words), Ok(variables)) => execute(reaper, &words, &variables),
            (Err(error), _) | (_, Err(error)) => error,
        }
    }
}

/// The name that the reaper is given, as `ps` shows it.
const REAPER: &str = "reaper";

fn c_strings(words: impl Iterator<Item = impl Into<OsString>>) -> io::Result<Vec<CString>> {
    let strings = words.map(|word| CString::new(word.into().into_vec()));
    Ok(strings.collect::<Result<_, _>>()?)
}

/// Tells when init is executed: the kernel closes the other end of a pipe then.
#[derive(Debug)]
pub struct Executed(OwnedFd);

impl Executed {
    /// With the end for init, of which this process may keep no copy.
    pub fn watch() -> io::Result<(Self, Arc<OwnedFd>)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((Self(read), Arc::new(write)))
    }

    /// Waits for it.
    ///
    /// # Errors
    /// Why it could not be executed.
    pub fn wait(self) -> io::Result<()> {
        let mut errno = [0; 4];
        match io::PipeReader::from(self.0).read_exact(&mut errno) {
            Ok(()) => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
        }
    }
}
