//! Runs a command in a running guest.
//!
//! ```text
//! vserver NAME exec                       ENTER: the sealed program, executed anew
//!   order, standard streams ───────────────▶ gets only a socket, and the streams that are no terminal
//!                                            │ joins cgroups and namespaces, loads the guest's filter and
//!                                            │ drops to its capabilities
//!   shows the guest's terminal ◀──────────── │ opens a terminal in the guest
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
//! | `supervise` | waits for it: signals, terminal, exit status |

mod account;
mod confine;
mod handshake;
mod inside;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use handshake::{Answer, ENTER_ARGUMENT, Order, Streams, Typed};
pub use inside::inside;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::isatty;
use supervise::supervise;
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

/// Runs it and returns its exit status: 128 + n when signal n ended it. Where a standard stream of this process is a
/// terminal, the command gets a terminal of the guest instead, the same for all such streams.
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
    let streams = streams().map_err(|(name, error)| failed(name, &error))?;
    let has_terminal = streams.iter().any(Option::is_none);
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
    let terminal = guest.map(|guest| Terminal::new(guest, streams.map(|own| own.is_none())));
    let status = supervise(&mut helper, terminal, || handshake::go(&socket))
        .map_err(|error| failed("waiting", &error))?;
    match handshake::receive_not_run(&socket) {
        Some(error) => Err(not_run(state, entry, &error)),
        None => Ok(status),
    }
}

/// The standard streams of this process that are no terminal: the command gets these.
///
/// Refuses a directory: it would open the host's files to the guest.
fn streams() -> Result<Streams<'static>, (&'static str, io::Error)> {
    let stream = |name, own: BorrowedFd<'static>| {
        if isatty(own) {
            return Ok(None);
        }
        let is_directory = fstat(own)
            .map(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
            .and_then(|is_directory| Ok(is_directory || fcntl_getfl(own)?.contains(OFlags::PATH)));
        match is_directory {
            Ok(false) => Ok(Some(own)),
            Ok(true) => Err((
                name,
                io::Error::other("a guest gets no directory of the host"),
            )),
            Err(error) => Err((name, error.into())),
        }
    };
    Ok([
        stream("its standard input", stdin())?,
        stream("its standard output", stdout())?,
        stream("its standard error", stderr())?,
    ])
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
