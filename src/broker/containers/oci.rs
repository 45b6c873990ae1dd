//! Receives an OCI runtime's message about a process under a filter, and serves the listener that comes with it. The
//! message is a `ContainerProcessState` as JSON. The runtime expects no answer and closes the connection.
//!
//! runc and youki connect from outside the container, crun from within. A command that enters a container later has a
//! filter of its own, and the runtime sends a message of its own for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Deserialize;
use vhashify_sys::seccomp::Listener;

use super::error::ConnectionError;
use super::protocol::{LISTENER, LONGEST_MESSAGE, MESSAGE_TIMEOUT, MONITOR};
use super::{Containers, lxc_hook};
use crate::broker::message::{MOST_DESCRIPTORS, receive};
use crate::broker::serve::{THREADS_OF_COMMAND, THREADS_OF_INIT, serve};

/// The most pieces of a message: each piece that could be the end has the whole message parsed.
const MOST_PIECES: usize = 256;
/// The most bytes of a piece.
const PIECE: usize = 64 << 10;

/// The used fields of `ContainerProcessState`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct ProcessState {
    /// The name of each descriptor.
    fds: Vec<String>,
    pid: i32,
    state: State,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct State {
    id: String,
}

/// Receives a message and starts threads that serve its listener until the container ends. For a starting container of
/// LXC, returns only when that ends.
///
/// # Errors
/// [`ConnectionError`]. Then the listener is closed, and the calls that it would report fail with `ENOSYS`.
pub fn serve_connection(
    connection: BorrowedFd<'_>,
    containers: &Containers,
) -> Result<(), ConnectionError> {
    let Some((said, mut descriptors)) = message(connection)? else {
        return Ok(());
    };
    let mut take = |name: &str| {
        let place = said.fds.iter().position(|fd| fd == name)?;
        (place < descriptors.len()).then(|| descriptors.swap_remove(place))
    };
    let listener = match (take(LISTENER), take(MONITOR)) {
        (Some(listener), _) => listener,
        (None, Some(monitor)) => {
            return lxc_hook::serve_start(&monitor, said.pid, &said.state.id, containers);
        }
        (None, None) => return Err(ConnectionError::NoListener),
    };
    drop(descriptors);
    if !Listener::is_one(listener.as_fd()) {
        return Err(ConnectionError::NoListener);
    }
    let chosen = containers.choose(said.pid, &said.state.id)?;
    let threads = if chosen.is_first {
        THREADS_OF_INIT
    } else {
        THREADS_OF_COMMAND
    };
    serve(&chosen.handler, listener.into(), threads).map_err(ConnectionError::Receive)?;
    Ok(())
}

/// Receives a whole message with its descriptors. `None` if the other process closes without a word: it only checked
/// whether this program listens.
fn message(
    connection: BorrowedFd<'_>,
) -> Result<Option<(ProcessState, Vec<OwnedFd>)>, ConnectionError> {
    let until = Instant::now() + MESSAGE_TIMEOUT;
    let (mut text, mut descriptors) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; PIECE];
    for _ in 0..MOST_PIECES {
        wait(connection, until)?;
        let piece = receive(connection, &mut buffer);
        let piece = piece.map_err(|errno| ConnectionError::Receive(errno.into()))?;
        text.extend(&buffer[..piece.length]);
        descriptors.extend(piece.descriptors);
        if piece.lacks_descriptors || descriptors.len() > MOST_DESCRIPTORS {
            return Err(ConnectionError::TooManyDescriptors);
        }
        if text.len() > LONGEST_MESSAGE {
            return Err(ConnectionError::TooLong);
        }
        let is_over = piece.length == 0;
        if is_over && text.is_empty() {
            return Ok(None);
        }
        match parse(&text) {
            Ok(said) => return Ok(Some((said, descriptors))),
            Err(error) if !error.is_eof() => {
                return Err(ConnectionError::NotState {
                    line: error.line(),
                    column: error.column(),
                });
            }
            Err(_) if is_over => return Err(ConnectionError::Broken),
            Err(_) => {}
        }
    }
    Err(ConnectionError::TooLong)
}

fn parse(text: &[u8]) -> Result<ProcessState, serde_json::Error> {
    serde_json::from_slice(text)
}

/// Waits for further bytes.
fn wait(connection: BorrowedFd<'_>, until: Instant) -> Result<(), ConnectionError> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut waited = [PollFd::from_borrowed_fd(connection, PollFlags::IN)];
        match poll(&mut waited, Some(&left)) {
            Ok(0) => return Err(ConnectionError::TooSlow),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ConnectionError::Receive(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_runc_and_crun_send_is_understood() {
        let runc = br#"{"ociVersion":"1.0.2-dev","fds":["seccompFd"],"pid":29543,"state":
            {"ociVersion":"1.0.2-dev","id":"web","status":"creating","pid":29543,"bundle":"/b"}}"#;
        let crun = b"{\n    \"ociVersion\": \"0.2.0\",\n    \"fds\": [\n        \"seccompFd\"\n    ],\n    \
            \"pid\": 29543,\n    \"metadata\": \"m\",\n    \"state\": {\n        \"id\": \"web\",\n        \
            \"annotations\": { \"a\": \"b\" }\n    }\n}\n";
        for text in [&runc[..], crun] {
            let said = parse(text).unwrap();
            assert_eq!((said.pid, said.state.id.as_str()), (29543, "web"));
            assert_eq!(said.fds, ["seccompFd"]);
        }
    }

    #[test]
    fn an_incomplete_message_differs_from_a_wrong_one() {
        for text in [
            &b""[..],
            b"{\"fds\":[\"secc",
            b"{\"pid\":1",
            b"{\"pid\":1,\"fds\":[],\"state\":{",
        ] {
            assert!(parse(text).unwrap_err().is_eof(), "{text:?}");
        }
        let deep = [b'['; 4000];
        for text in [
            &b"hello"[..],
            b"{}",
            b"{\"pid\":\"1\",",
            b"{\"pid\":99999999999,",
            b"{\"pid\":1,\"fds\":[],\"state\":{\"id\":\"x\"}} more",
            &deep,
        ] {
            assert!(!parse(text).unwrap_err().is_eof(), "{text:?}");
        }
    }
}
