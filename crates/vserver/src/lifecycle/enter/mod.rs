//! Runs a command in a guest that runs.
//!
//! The order is what keeps the host safe. This process joins the guest's cgroups and namespaces,
//! takes the guest's filter of system calls and drops to its capabilities while it is still in the
//! host's PID namespace, where no process of the guest sees it. Only then it forks: the child, which
//! the guest's root may trace from its first instruction on, has nothing that the guest has not.

mod account;
mod confine;
mod supervise;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use account::Account;
use confine::confine;
use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::process::{Gid, Uid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use supervise::supervise;
use vhashify_sys::process::in_own_session;

use super::observe::mend_running;
use super::terminal::Terminal;
use super::{LifecycleError, StateDirectory, broker, sealed};
use crate::context::cgroup;

/// A command that runs in a guest.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The program and its arguments; none for the guest's shell.
    pub command: Vec<OsString>,
    /// A user of the guest, by name or number, in place of its root.
    pub user: Option<String>,
    /// The value of `shell` in the configuration.
    pub shell: Option<String>,
}

/// Runs it, with a terminal of the guest's where this process has one, and gives its exit status:
/// 128 and more when a signal ended it.
///
/// # Errors
/// The guest does not run, or cannot be entered. From then on this process is of no more use.
pub fn enter(state: &StateDirectory, entry: &Entry) -> Result<u8, LifecycleError> {
    let (running, init) = mend_running(state)?;
    let failed = |what: &str, error: &dyn std::fmt::Display| LifecycleError::Enter {
        name: state.name().to_owned(),
        reason: format!("{what}: {error}").into(),
    };
    sealed::ensure().map_err(|error| failed("this program cannot be sealed", &error))?;
    let spec = Spec::load(state.at("bundle/config.json"))
        .map_err(|error| failed("its specification cannot be read", &error))?;
    let handle = init.open().ok_or_else(|| LifecycleError::NotRunning {
        name: state.name().to_owned(),
    })?;
    // Before its mounts hide the socket.
    let broker = running.broker.map(|_| broker::connect(state)).transpose();
    let broker = broker.map_err(|error| failed("its broker is dead, restart the guest", &error))?;
    cgroup::enter(running.context).map_err(|error| failed("its cgroup", &error))?;
    let mut namespaces = namespaces();
    let has_own_users = has_own_users(&spec);
    namespaces.set(ThreadNameSpaceType::USER, has_own_users);
    move_into_thread_name_spaces(handle.as_fd(), namespaces)
        .map_err(|error| failed("its namespaces", &error))?;
    drop(handle);
    if has_own_users {
        // The host's root has no number there; from here on this process is the guest's root.
        become_root().map_err(|error| failed("its root", &error))?;
    }
    let account = entry
        .user
        .as_deref()
        .map(Account::find)
        .transpose()
        .map_err(|error| failed("user", &error))?
        .unwrap_or_default();
    confine(&spec, &account, broker.as_ref()).map_err(|error| failed("its limits", &error))?;
    drop(broker);

    let mut command = command(&spec, entry, &account);
    let terminal = if io::stdin().is_terminal() && io::stdout().is_terminal() {
        let made = Terminal::open(&mut command);
        Some(made.map_err(|error| failed("its terminal", &error))?)
    } else {
        None
    };
    in_own_session(&mut command, terminal.is_some());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Err(not_run(state, &command, &error)),
    };
    // The guest's end of the terminal must be closed here, to see when it is closed there.
    drop(command);
    supervise(&mut child, terminal).map_err(|error| failed("waiting", &error))
}

fn namespaces() -> ThreadNameSpaceType {
    ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::CONTROL_GROUP
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID
}

/// Whether the guest has a user namespace.
fn has_own_users(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let mut listed = linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten();
    listed.any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

fn become_root() -> rustix::io::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// The command as it is spawned: program, environment, user.
fn command(spec: &Spec, entry: &Entry, account: &Account) -> Command {
    let shell = || -> OsString {
        let usual = ["/bin/bash", "/bin/sh"];
        let found = usual.iter().find(|path| Path::new(path).exists());
        let shell = entry.shell.clone();
        shell
            .unwrap_or_else(|| found.unwrap_or(&"/bin/sh").to_string())
            .into()
    };
    let (program, arguments) = match entry.command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (shell(), &[][..]),
    };
    let mut command = Command::new(&program);
    if entry.command.is_empty() {
        // As login(1) tells a shell that it is the first.
        let name = Path::new(&program).file_name().unwrap_or_default();
        let mut first = OsString::from("-");
        first.push(name);
        command.arg0(first);
    }
    command.args(arguments).env_clear();
    let variables = spec
        .process()
        .as_ref()
        .and_then(|process| process.env().as_ref());
    for variable in variables.into_iter().flatten() {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    if let Some(home) = &account.home {
        command.env("HOME", home);
    }
    if let (true, Some(kind)) = (io::stdin().is_terminal(), std::env::var_os("TERM")) {
        command.env("TERM", kind);
    }
    if let Some((uid, gid)) = account.ids {
        command.uid(uid).gid(gid);
    }
    command
}

/// The error for a program that could not be executed, with the status that a shell would exit with.
fn not_run(state: &StateDirectory, command: &Command, error: &io::Error) -> LifecycleError {
    let (reason, status) = match error.kind() {
        io::ErrorKind::NotFound => ("there is no such program in the guest".to_owned(), 127),
        _ => (vhashify_sys::call_error::reason(error), 126),
    };
    LifecycleError::NotRun {
        name: state.name().to_owned(),
        program: command.get_program().into(),
        reason,
        status,
    }
}
