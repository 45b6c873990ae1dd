//! What the process that was called and the one that enters the guest tell each other, over a socket.
//!
//! ```text
//! caller ── three streams, length, Order ──▶ entering process
//!       ◀── + and the guest's terminal ────  it is confined (or: - and why not)
//!        ── . ─────────────────────────────▶ the terminal has its size: go on
//!       ◀── ! and the errno ───────────────  the command could not be executed
//! ```
//!
//! The child of the entering process has the socket, too, until it executes the command, and the guest's root may trace
//! it then. So what comes after the first answer is read with care: it can change nothing but the exit status.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vhashify::broker::message;
use vhashify_sys::pidfd::Process;

/// The first argument of the program that enters.
pub const ENTER_ARGUMENT: &str = "--enter";

/// Standard input, output and error; `None` stands for a terminal of the guest's.
pub type Streams<'a> = [Option<BorrowedFd<'a>>; 3];

/// What the entering process is to do. Both are the same program: this is no format.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The guest.
    pub name: String,
    /// The directory of all guests' states.
    pub state_dir: PathBuf,
    /// Its context.
    pub context: u32,
    /// Its process 1.
    pub init: Process,
    /// Whether its monitor breaks links for it.
    pub has_broker: bool,
    /// What was typed.
    pub typed: Typed,
}

/// The command as it was typed, and on what kind of terminal.
#[derive(Debug, Serialize, Deserialize)]
pub struct Typed {
    /// The program and its arguments; none for a shell.
    pub command: Vec<OsString>,
    /// A user of the guest.
    pub user: Option<String>,
    /// The configured shell.
    pub shell: Option<String>,
    /// `TERM`, where the command gets a terminal.
    pub terminal_kind: Option<OsString>,
}

/// The first answer.
#[derive(Debug)]
pub enum Answer {
    /// It is confined, and forks when it is let go. With a terminal of the guest's.
    Ready(Option<OwnedFd>),
    /// Why not, for the user.
    Failed(String),
}

const STREAM: &[u8] = b"s";
const TERMINAL: &[u8] = b"t";
const READY: u8 = b'+';
const FAILED: u8 = b'-';
const GO: &[u8] = b".";
const NOT_RUN: &[u8] = b"!";

/// Sends the streams and the order.
pub fn send(socket: &UnixStream, order: &Order, streams: &Streams<'_>) -> io::Result<()> {
    let mut socket = socket;
    for stream in streams {
        match stream {
            Some(stream) => message::send(socket.as_fd(), STREAM, *stream)?,
            None => socket.write_all(TERMINAL)?,
        }
    }
    let text = serde_json::to_vec(order)?;
    socket.write_all(&u64::try_from(text.len()).unwrap_or(0).to_ne_bytes())?;
    socket.write_all(&text)
}

/// Receives them.
pub fn receive(socket: &UnixStream) -> io::Result<(Order, [Option<OwnedFd>; 3])> {
    let mut streams = [None, None, None];
    for stream in &mut streams {
        let piece = message::receive(socket.as_fd(), &mut [0])?;
        if piece.length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *stream = piece.descriptors.into_iter().next();
    }
    let mut socket = socket;
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    let mut text = Vec::new();
    socket
        .take(u64::from_ne_bytes(length))
        .read_to_end(&mut text)?;
    Ok((serde_json::from_slice(&text)?, streams))
}

/// Says that everything is ready, and waits until it is let go. `guest` is the caller's end of the guest's terminal.
pub fn be_ready(socket: &UnixStream, guest: Option<OwnedFd>) -> io::Result<()> {
    let mut socket = socket;
    match guest {
        Some(guest) => message::send(socket.as_fd(), &[READY], guest.as_fd())?,
        None => socket.write_all(&[READY])?,
    }
    socket.read_exact(&mut [0])
}

/// Says why the guest cannot be entered.
pub fn fail(socket: &UnixStream, reason: &impl Display) {
    let mut socket = socket;
    let reason = reason.to_string();
    // The caller may be gone.
    drop(
        socket
            .write_all(&[FAILED])
            .and_then(|()| socket.write_all(reason.as_bytes())),
    );
}

/// Waits for the first answer. The other process has no child yet.
pub fn receive_answer(socket: &UnixStream) -> io::Result<Answer> {
    let mut first = [0];
    let piece = message::receive(socket.as_fd(), &mut first)?;
    if piece.length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] == READY {
        return Ok(Answer::Ready(piece.descriptors.into_iter().next()));
    }
    let mut reason = String::new();
    let mut socket = socket;
    socket.read_to_string(&mut reason)?;
    Ok(Answer::Failed(reason))
}

/// Lets it begin the command.
pub fn let_go(socket: &UnixStream) -> io::Result<()> {
    let mut socket = socket;
    socket.write_all(GO)
}

/// Says that the command could not be executed.
pub fn complain(socket: &UnixStream, error: &io::Error) {
    let mut socket = socket;
    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
    let text = [NOT_RUN, &errno.to_ne_bytes()].concat();
    drop(socket.write_all(&text));
}

/// Why the command could not be executed, of a process that has ended. Waits for nothing.
pub fn not_run(socket: &UnixStream) -> Option<io::Error> {
    socket.set_nonblocking(true).ok()?;
    let mut text = [0; 5];
    let mut socket = socket;
    socket.read_exact(&mut text).ok()?;
    let errno = text.strip_prefix(NOT_RUN)?.try_into().ok()?;
    Some(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
}
