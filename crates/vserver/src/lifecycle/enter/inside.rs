//! The process that enters the guest. It is executed anew, since the guest's process starts as a copy of it.

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use thiserror::Error;
use vhashify_sys::process::{ignore_broken_pipes, in_own_session, signals_as_descriptor};

use super::super::{StateDirectory, broker, inherited, terminal};
use super::account::Account;
use super::confine::confine;
use super::handshake::{self, Order, Typed};
use super::streams::{Stream, null_of_guest};
use super::supervise::{PASSED_ON, wait_for};
use crate::context::cgroup;

/// Why the guest could not be entered: one line for the user.
#[derive(Debug, Error)]
enum EnterError {
    #[error("it does not run any more")]
    GuestEnded,
    #[error("{step}: {source}")]
    Step {
        /// What was to be had, or what is the matter with it.
        step: &'static str,
        source: Box<dyn Error>,
    },
}

impl EnterError {
    /// `step` failed: for `map_err`.
    fn at<E: Into<Box<dyn Error>>>(step: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Step {
            step,
            source: source.into(),
        }
    }
}

/// Enters as ordered, runs the command, and exits as it did.
#[must_use]
pub fn inside() -> ExitCode {
    let Ok(socket) = stdin().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    let mut command = match prepare(&socket) {
        Ok(command) => command,
        Err(error) => {
            handshake::answer_failed(&socket, &error);
            return ExitCode::FAILURE;
        }
    };
    // Before the fork: a signal that ends this process must not leave the child behind.
    let Ok(signals) = signals_as_descriptor(&PASSED_ON) else {
        return ExitCode::FAILURE;
    };
    match command.spawn() {
        Ok(mut child) => {
            // Closes this process's copy of the guest's end of the terminal, so that the caller sees a hang-up when the
            // guest closes its own.
            drop(command);
            wait_for(&mut child, &signals).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            handshake::send_not_run(&socket, &error);
            ExitCode::FAILURE
        }
    }
}

/// Enters the guest and returns the command to spawn.
fn prepare(socket: &UnixStream) -> Result<Command, EnterError> {
    // A second wall: a guest with users of its own can neither trace the child nor open its descriptors.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(EnterError::at("its memory cannot be hidden"))?;
    inherited::forget_caller();
    // The caller may be gone when this process answers; its command waits for nobody else.
    ignore_broken_pipes();
    let (order, streams) = handshake::receive(socket).map_err(EnterError::at("its order"))?;
    let state = StateDirectory::new(&order.state_dir, &order.name);
    let spec = Spec::load(state.at("bundle/config.json"))
        .map_err(EnterError::at("its specification cannot be read"))?;
    let account = join(&order, &state, &spec)?;
    let mut command = command(&spec, &order.typed, &account);
    let guest = give_streams(&mut command, streams)
        .map_err(EnterError::at("its terminal, or /dev/null"))?;
    in_own_session(
        &mut command,
        guest.as_ref().map(|(_, of_command)| *of_command),
    );
    handshake::answer_ready(socket, guest.map(|(shown, _)| shown))
        .map_err(EnterError::at("its caller"))?;
    Ok(command)
}

/// Joins the guest's cgroups and namespaces and takes on its limits. Closes every descriptor that it opens.
fn join(order: &Order, state: &StateDirectory, spec: &Spec) -> Result<Account, EnterError> {
    let handle = order.init.open().ok_or(EnterError::GuestEnded)?;
    // Connects now: in the guest's mount namespace the socket has no path.
    let broker = order.has_broker.then(|| broker::connect(state)).transpose();
    let broker = broker.map_err(EnterError::at("its broker is dead, restart the guest"))?;
    inherited::raise_hard_limits(spec).map_err(EnterError::at("its limits"))?;
    cgroup::enter(order.context).map_err(EnterError::at("its cgroup"))?;
    let mut namespaces = namespaces();
    let has_own_users = has_own_users(spec);
    namespaces.set(ThreadNameSpaceType::USER, has_own_users);
    move_into_thread_name_spaces(handle.as_fd(), namespaces)
        .map_err(EnterError::at("its namespaces"))?;
    drop(handle);
    if has_own_users {
        // The guest's user namespace does not map the host's root. From here on this process is the guest's root.
        become_root().map_err(EnterError::at("its root"))?;
    }
    let user = order.typed.user.as_deref();
    let account = user.map(Account::find).transpose();
    let account = account.map_err(EnterError::at("user"))?.unwrap_or_default();
    confine(spec, &account, broker.as_ref()).map_err(EnterError::at("its limits"))?;
    Ok(account)
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

/// Gives the command its streams: for each terminal the same one of the guest, whose mount namespace this process is in.
/// Returns the caller's end of the terminal, and the first stream of the command that is its other end.
fn give_streams(
    command: &mut Command,
    streams: [Stream; 3],
) -> io::Result<Option<(OwnedFd, BorrowedFd<'static>)>> {
    let first = [stdin(), stdout(), stderr()]
        .into_iter()
        .zip(&streams)
        .find_map(|(of_command, stream)| matches!(stream, Stream::Terminal).then_some(of_command));
    let terminal = first.map(|_| terminal::open()).transpose()?;
    let (shown, of_guest) = terminal.map_or((None, None), |(a, b)| (Some(a), Some(b)));
    let mut given = Vec::new();
    for stream in streams {
        given.push(match (stream, &of_guest) {
            (Stream::Is(stream), _) => Stdio::from(stream),
            (Stream::Terminal, Some(of_guest)) => Stdio::from(of_guest.try_clone()?),
            (Stream::Null | Stream::Terminal, _) => Stdio::from(null_of_guest()?),
        });
    }
    let mut given = given.into_iter();
    command.stdin(given.next().unwrap_or_else(Stdio::null));
    command.stdout(given.next().unwrap_or_else(Stdio::null));
    command.stderr(given.next().unwrap_or_else(Stdio::null));
    Ok(shown.zip(first))
}

/// The command with program, environment and user.
fn command(spec: &Spec, typed: &Typed, account: &Account) -> Command {
    let shell = || -> OsString {
        let usual = ["/bin/bash", "/bin/sh"];
        let found = usual.iter().find(|path| Path::new(path).exists());
        let shell = typed.shell.clone();
        shell
            .unwrap_or_else(|| found.unwrap_or(&"/bin/sh").to_string())
            .into()
    };
    let (program, arguments) = match typed.command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (shell(), &[][..]),
    };
    let mut command = Command::new(&program);
    if typed.command.is_empty() {
        // A leading dash makes it a login shell, as login(1) does.
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
    if let Some(kind) = &typed.terminal_kind {
        command.env("TERM", kind);
    }
    if let Some((uid, gid)) = account.ids {
        command.uid(uid).gid(gid);
    }
    command
}
