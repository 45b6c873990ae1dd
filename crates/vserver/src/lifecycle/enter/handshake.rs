//! The messages between the caller and the process that enters the guest, over a socket.
//!
//! ```text
//! caller ── three streams, length, Order ──▶ entering process
//!       ◀── + and the guest's terminal ────  it is confined (or: - and why not)
//!        ── . ─────────────────────────────▶ the terminal has its size: execute the command
//!       ◀── ! and the errno ───────────────  the command could not be executed
//! ```
//!
//! Until it executes the command, the child of the entering process has the socket, too, and the guest's root may trace
//! the child. So the caller does not trust a message after the first answer: it can change only the exit status.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vhashify::broker::message;
use vhashify_sys::pidfd::Process;

use super::streams::Stream;

/// The first argument of the program that enters.
pub const ENTER_ARGUMENT: &str = "--enter";

/// The order to the entering process. Both ends run the same program, so this is not a stable format.
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
    /// Whether its monitor is its broker, too.
    pub has_broker: bool,
    /// The command.
    pub typed: Typed,
}

/// The command as typed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Typed {
    /// The program and its arguments; empty for a shell.
    pub command: Vec<OsString>,
    /// A user of the guest.
    pub user: Option<String>,
    /// The configured shell.
    pub shell: Option<String>,
    /// `TERM`, if the command gets a terminal.
    pub terminal_kind: Option<OsString>,
}

/// The first answer.
#[derive(Debug)]
pub enum Answer {
    /// The entering process is confined, and forks after [`go`]. With the caller's end of the guest's terminal.
    Ready(Option<OwnedFd>),
    /// It could not enter. Says why, for the user.
    Failed(String),
}

const STREAM: u8 = b's';
const TERMINAL: u8 = b't';
const NULL: u8 = b'n';
const READY: u8 = b'+';
const FAILED: u8 = b'-';
const GO: &[u8] = b".";
const NOT_RUN: &[u8] = b"!";

/// Sends the streams and the order.
pub fn send(socket: &UnixStream, order: &Order, streams: &[Stream; 3]) -> io::Result<()> {
    let mut socket = socket;
    for stream in streams {
        match stream {
            Stream::Is(stream) => message::send(socket.as_fd(), &[STREAM], stream.as_fd())?,
            Stream::Terminal => socket.write_all(&[TERMINAL])?,
            Stream::Null => socket.write_all(&[NULL])?,
        }
    }
    let text = serde_json::to_vec(order)?;
    socket.write_all(&u64::try_from(text.len()).unwrap_or(0).to_ne_bytes())?;
    socket.write_all(&text)
}

/// Receives the order and the streams.
pub fn receive(socket: &UnixStream) -> io::Result<(Order, [Stream; 3])> {
    let mut streams = [Stream::Null, Stream::Null, Stream::Null];
    for stream in &mut streams {
        let mut what = [0];
        let piece = message::receive(socket.as_fd(), &mut what)?;
        if piece.length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *stream = match (what, piece.descriptors.into_iter().next()) {
            ([STREAM], Some(stream)) => Stream::Is(stream),
            ([TERMINAL], None) => Stream::Terminal,
            ([NULL], None) => Stream::Null,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
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

/// Answers that this process is confined, and waits for [`go`]. `guest` is the caller's end of the guest's terminal.
pub fn answer_ready(socket: &UnixStream, guest: Option<OwnedFd>) -> io::Result<()> {
    let mut socket = socket;
    match guest {
        Some(guest) => message::send(socket.as_fd(), &[READY], guest.as_fd())?,
        None => socket.write_all(&[READY])?,
    }
    socket.read_exact(&mut [0])
}

/// Answers why the guest cannot be entered.
pub fn answer_failed(socket: &UnixStream, reason: &impl Display) {
    let mut socket = socket;
    let reason = reason.to_string();
    // The caller may be gone.
    drop(
        socket
            .write_all(&[FAILED])
            .and_then(|()| socket.write_all(reason.as_bytes())),
    );
}

/// Waits for the first answer. It can be trusted: the entering process has no child yet.
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

/// Lets the entering process execute the command.
pub fn go(socket: &UnixStream) -> io::Result<()> {
    let mut socket = socket;
    socket.write_all(GO)
}

/// Sends why the command could not be executed.
pub fn send_not_run(socket: &UnixStream, error: &io::Error) {
    let mut socket = socket;
    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
    let text = [NOT_RUN, &errno.to_ne_bytes()].concat();
    drop(socket.write_all(&text));
}

/// Receives why the command could not be executed, after the entering process ended. Does not wait.
pub fn receive_not_run(socket: &UnixStream) -> Option<io::Error> {
    socket.set_nonblocking(true).ok()?;
    let mut text = [0; 5];
    let mut socket = socket;
    socket.read_exact(&mut text).ok()?;
    let errno = text.strip_prefix(NOT_RUN)?.try_into().ok()?;
    Some(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
}
