//! Runs a command in a running guest.
//!
//! ```text
//! vserver NAME exec                       ENTER: the sealed program, executed anew
//!   order, standard streams ───────────────▶ gets only a socket, and the streams for the command
//!                                            │ joins cgroups and namespaces, loads the guest's filter and
//!                                            │ drops to its capabilities
//!   shows the guest's terminal,              │
//!   copies files ◀────────────────────────── │ opens a terminal in the guest
//!   signals ───────────────────────────────▶ └ forks: the child executes the command
//!   exit status ◀─────────────────────────── waits
//! ```
//!
//! This order keeps the host safe. The entering process does all this while it is still in the host's PID namespace,
//! where no process of the guest sees it. Only then it forks. The guest's root may stop and trace the child from its
//! first instruction on, so the child has nothing that the guest has not: it is no copy of the caller, so has neither
//! its memory nor its environment, and it has no descriptor but the socket and the command's streams. The terminal
//! on which the command was typed stays with the caller.
//!
//! | file | what it does |
//! | --- | --- |
//! | `account` | looks up a user of the guest |
//! | `confine` | drops every power that the guest has not |
//! | `handshake` | the messages between caller and entering process |
//! | `inside` | the entering process |
//! | `streams` | the command's standard streams, made of the caller's |
//! | `supervise` | waits for it: signals, terminal, exit status |

mod account;
mod confine;
mod handshake;
mod inside;
mod streams;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use handshake::{Answer, ENTER_ARGUMENT, Order, Typed};
pub use inside::inside;
use streams::{OfCaller, Stream, StreamError};
use supervise::{Shown, supervise};
use vhashify_sys::process::in_own_session;

use super::observe::mend_running;
use super::sealed::Sealed;
use super::terminal::Terminal;
use super::{LifecycleError, StateDirectory, chroot};

/// The first argument of the program that enters a guest. Its standard input is the socket on which the order comes.
pub const ENTER: &str = ENTER_ARGUMENT;

/// A command that runs in a guest.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The program and its arguments; empty for the guest's shell.
    pub command: Vec<OsString>,
    /// A user of the guest, by name or number, instead of its root.
    pub user: Option<String>,
    /// The setting `shell`.
    pub shell: Option<String>,
}

/// Runs it and returns its exit status: 128 + n when signal n ended it. Its standard streams are made of those of this
/// process, so that the guest gets no file of the host.
///
/// # Errors
/// The guest does not run, or cannot be entered.
pub fn enter(state: &StateDirectory, entry: &Entry) -> Result<u8, LifecycleError> {
    let (running, init) = mend_running(state)?;
    chroot::refuse(state.name())?;
    let failed = |what: &str, error: &dyn std::fmt::Display| LifecycleError::Enter {
        name: state.name().to_owned(),
        reason: format!("{what}: {error}").into(),
    };
    let stream_failed = |(stream, error): StreamError| {
        let reason = format!("{stream}: {}", vhashify_sys::call_error::reason(&error));
        LifecycleError::Refused {
            name: state.name().to_owned(),
            reason: reason.into(),
        }
    };
    let OfCaller { streams, relays } = OfCaller::find().map_err(stream_failed)?;
    let are_terminals = [0, 1, 2].map(|number| matches!(streams[number], Stream::Terminal));
    let has_terminal = are_terminals.contains(&true);
    let order = Order {
        name: state.name().to_owned(),
        state_dir: state.top().to_path_buf(),
        context: running.context,
        init,
        has_broker: running.broker.is_some(),
        typed: Typed {
            command: entry.command.clone(),
            user: entry.user.clone(),
            shell: entry.shell.clone(),
            terminal_kind: std::env::var_os("TERM").filter(|_| has_terminal),
        },
    };
    let (mut helper, socket) =
        spawn_helper().map_err(|error| failed("no program can enter it", &error))?;
    // If it fails, the helper ended early, and its answer may say why.
    drop(handshake::send(&socket, &order, &streams));
    drop(streams);
    let guest = match handshake::receive_answer(&socket) {
        Ok(Answer::Ready(guest)) => guest,
        Ok(Answer::Failed(reason)) => {
            drop(helper.wait());
            let (name, reason) = (state.name().to_owned(), reason.into());
            return Err(LifecycleError::Enter { name, reason });
        }
        Err(error) => {
            let waited = helper.wait();
            let ended = waited.map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(failed(
                "what enters it ended early",
                &format!("{error}, {ended}"),
            ));
        }
    };
    let terminal = guest.map(|guest| Terminal::new(guest, are_terminals));
    let mut shown = Shown { terminal, relays };
    let status = supervise(&mut helper, &mut shown, || handshake::go(&socket))
        .map_err(|error| failed("waiting", &error))?;
    if let Some(error) = handshake::receive_not_run(&socket) {
        return Err(not_run(state, entry, &error));
    }
    match shown.relays.failed() {
        Some(error) => Err(stream_failed(error)),
        None => Ok(status),
    }
}

/// Starts the entering process. It gets only the other end of the socket.
fn spawn_helper() -> io::Result<(Child, UnixStream)> {
    let (socket, other) = UnixStream::pair()?;
    // Dropped on return, before the helper gets its order: from then on nobody can reach the mount.
    let sealed = Sealed::new()?;
    let mut command = sealed.command();
    command
        .arg(ENTER)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(other)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    in_own_session(&mut command, None);
    Ok((command.spawn()?, socket))
}

/// The error for a program that could not be executed, with a shell's exit status.
fn not_run(state: &StateDirectory, entry: &Entry, error: &io::Error) -> LifecycleError {
    let (reason, status) = match error.kind() {
        io::ErrorKind::NotFound => ("there is no such program in the guest".to_owned(), 127),
        _ => (vhashify_sys::call_error::reason(error), 126),
    };
    let shell = || {
        entry
            .shell
            .clone()
            .unwrap_or_else(|| "its shell".to_owned())
    };
    LifecycleError::NotRun {
        name: state.name().to_owned(),
        program: entry
            .command
            .first()
            .map_or_else(|| shell().into(), Into::into),
        reason,
        status,
    }
}
