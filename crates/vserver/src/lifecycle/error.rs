//! Why a guest cannot be started, entered or stopped. Each message is one line.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vhashify_config::ConfigError;
use vhashify_sys::call_error::CallError;
use vhashify_sys::shown::Shown;

/// Why something cannot be done: a one-line error of a module below, or just the line.
pub type Reason = Box<dyn std::error::Error + Send + Sync>;

/// An error of a guest's life.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LifecycleError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A system call failed.
    #[error(transparent)]
    System(#[from] CallError),
    /// Another command starts or stops the guest.
    #[error("{name} is being started or stopped by another command; try again later")]
    Busy {
        /// The guest.
        name: String,
    },
    /// The guest runs.
    #[error("{name} is already running, with context {context}; stop it first")]
    AlreadyRunning {
        /// The guest.
        name: String,
        /// Its context.
        context: u32,
    },
    /// The guest does not run.
    #[error("{name} is not running; start it first")]
    NotRunning {
        /// The guest.
        name: String,
    },
    /// The context number belongs to somebody else.
    #[error(
        "the context {context} of {name} is in use; write another number into its context, or none to have a free one"
    )]
    ContextTaken {
        /// The guest.
        name: String,
        /// The number.
        context: u32,
    },
    /// All dynamic numbers are in use.
    #[error("no context number from 49152 to 65535 is free; stop a guest")]
    NoContext,
    /// The vdir cannot be used.
    #[error("the vdir {} of {name} cannot be used: {reason}", Shown::path(vdir))]
    Vdir {
        /// The guest.
        name: String,
        /// Its vdir.
        vdir: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A setting of the guest.
    #[error("{}: {reason}", Shown::path(path))]
    Setting {
        /// The file or directory of the configuration.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// `libcontainer`, or the kernel below it, refused.
    #[error("{name} cannot be started: {reason}")]
    Start {
        /// The guest.
        name: String,
        /// Why.
        reason: String,
    },
    /// The guest could not be built.
    #[error("{name} cannot be built: {reason}")]
    Build {
        /// The guest.
        name: String,
        /// Why.
        #[source]
        reason: Reason,
    },
    /// A command for a running guest cannot be done.
    #[error("{name}: {reason}")]
    Refused {
        /// The guest.
        name: String,
        /// What, and why.
        #[source]
        reason: Reason,
    },
    /// The guest's old-style configuration could not be imported.
    #[error("{name} cannot be imported: {reason}")]
    Import {
        /// The guest.
        name: String,
        /// Why.
        #[source]
        reason: Reason,
    },
    /// The guest could not be entered.
    #[error("{name} cannot be entered: {reason}")]
    Enter {
        /// The guest.
        name: String,
        /// Why.
        #[source]
        reason: Reason,
    },
    /// The guest was entered, but could not execute the command.
    #[error("{name}: {}: {reason}", Shown::path(program))]
    NotRun {
        /// The guest.
        name: String,
        /// The program.
        program: PathBuf,
        /// Why.
        reason: String,
        /// The exit status, as a shell has it: 127 for a missing program, 126 for one that cannot be executed.
        status: u8,
    },
    /// Something of the guest is still there after SIGKILL.
    #[error(
        "{name} does not end: its init has had SIGKILL and is still there; look for processes in state D"
    )]
    DoesNotEnd {
        /// The guest.
        name: String,
    },
    /// A hook failed.
    #[error(
        "the hook {} ended with {status}; correct it, or remove it",
        Shown::path(path)
    )]
    Hook {
        /// The hook.
        path: PathBuf,
        /// How it ended.
        status: String,
    },
}

/// Adds the call and its path to an error of the system.
pub(crate) trait Doing<T> {
    fn doing(self, call: &'static str, path: &Path) -> Result<T, LifecycleError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, call: &'static str, path: &Path) -> Result<T, LifecycleError> {
        self.map_err(|error| CallError::new(call, path, error).into())
    }
}
