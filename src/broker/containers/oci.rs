//! What an OCI runtime sends about a process under a filter: one `ContainerProcessState`, as JSON, with the
//! listener of the filter as one of its descriptors. It expects no answer and closes the connection.
//!
//! runc and youki connect for the container, crun does so from within it. A command that enters a container
//! later has a filter, and sends a message, of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Deserialize;
use vhashify_sys::seccomp::Listener;

use super::error::Unserved;
use super::{Containers, lxc_hook};
use crate::broker::message::{MOST_DESCRIPTORS, receive};
use crate::broker::serve::{THREADS_OF_COMMAND, THREADS_OF_INIT, serve};

/// Bytes of a message: annotations may be many.
pub const LONGEST: usize = 1 << 20;
/// How long a whole message is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Pieces that it may come in, since it is parsed after each that could be its end.
const MOST_PIECES: usize = 256;
/// What is received at once.
const PIECE: usize = 64 << 10;

/// The name of the listener among the descriptors.
const LISTENER: &str = "seccompFd";
/// What stands in its place where the listener is still to come: the monitor of a container of LXC.
pub const MONITOR: &str = "vhashifyLxcMonitorFd";

/// The fields that count of `ContainerProcessState`.
#[derive(Debug, Deserialize, PartialEq, Eq)]
struct ProcessState {
    /// What each descriptor is.
    fds: Vec<String>,
    pid: i32,
    state: State,
}

#[derive(Debug, Deserialize, PartialEq, Eq)]
struct State {
    id: String,
}

/// Receives a message and serves the listener that comes with it, until its container has ended.
///
/// # Errors
/// [`Unserved`]. Then its listener is closed, and calls that would wait fail with `ENOSYS`.
pub fn attend(connection: BorrowedFd<'_>, containers: &Containers) -> Result<(), Unserved> {
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
            return lxc_hook::attend(&monitor, said.pid, &said.state.id, containers);
        }
        (None, None) => return Err(Unserved::NoListener),
    };
    drop(descriptors);
    if !Listener::is_one(listener.as_fd()) {
        return Err(Unserved::NoListener);
    }
    let chosen = containers.choose(said.pid, &said.state.id)?;
    let threads = if chosen.is_first {
        THREADS_OF_INIT
    } else {
        THREADS_OF_COMMAND
    };
    serve(&chosen.judge, listener.into(), threads).map_err(Unserved::Receive)?;
    Ok(())
}

/// The whole message, with its descriptors. `None` from somebody who only looks whether this program
/// listens.
fn message(connection: BorrowedFd<'_>) -> Result<Option<(ProcessState, Vec<OwnedFd>)>, Unserved> {
    let until = Instant::now() + PATIENCE;
    let (mut text, mut descriptors) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; PIECE];
    for _ in 0..MOST_PIECES {
        wait(connection, until)?;
        let piece = receive(connection, &mut buffer);
        let piece = piece.map_err(|errno| Unserved::Receive(errno.into()))?;
        text.extend(&buffer[..piece.length]);
        descriptors.extend(piece.descriptors);
        if piece.lacks_descriptors || descriptors.len() > MOST_DESCRIPTORS {
            return Err(Unserved::TooManyDescriptors);
        }
        if text.len() > LONGEST {
            return Err(Unserved::TooLong);
        }
        let is_over = piece.length == 0;
        if is_over && text.is_empty() {
            return Ok(None);
        }
        match parse(&text) {
            Ok(said) => return Ok(Some((said, descriptors))),
            Err(error) if !error.is_eof() => {
                return Err(Unserved::NotState {
                    line: error.line(),
                    column: error.column(),
                });
            }
            Err(_) if is_over => return Err(Unserved::Broken),
            Err(_) => {}
        }
    }
    Err(Unserved::TooLong)
}

fn parse(text: &[u8]) -> Result<ProcessState, serde_json::Error> {
    serde_json::from_slice(text)
}

/// Waits for more.
fn wait(connection: BorrowedFd<'_>, until: Instant) -> Result<(), Unserved> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut waited = [PollFd::from_borrowed_fd(connection, PollFlags::IN)];
        match poll(&mut waited, Some(&left)) {
            Ok(0) => return Err(Unserved::TooSlow),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Unserved::Receive(errno.into())),
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
    fn a_message_that_goes_on_is_told_from_one_that_is_wrong() {
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
