//! Accepts connections of runtimes, each in a thread of its own, until a signal ends it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vhashify_sys::process::next_signal;
use vhashify_sys::shown::Shown;

use super::socket::Socket;
use super::{Containers, lxc_proxy, oci};
use crate::broker::serve::STACK;

/// Connections to a socket that are attended at once; others wait to be accepted. One of a runtime is a message, one
/// of LXC lasts as long as its container.
const MOST_CONNECTIONS: usize = 4096;

/// What is spoken on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// What OCI runtimes and LXC's hook send.
    Oci,
    /// What LXC's monitors ask.
    LxcProxy,
}

/// A socket, what is spoken there, and how many connections are attended.
struct Attended<'a> {
    socket: &'a Socket,
    protocol: Protocol,
    connections: Arc<()>,
}

/// Serves containers until a signal can be read of `signals`. Those that are served then are so no more
/// when this process ends.
pub fn attend(sockets: &[(Socket, Protocol)], containers: &Arc<Containers>, signals: &OwnedFd) {
    let attended: Vec<Attended<'_>> = sockets
        .iter()
        .map(|(socket, protocol)| Attended {
            socket,
            protocol: *protocol,
            connections: Arc::new(()),
        })
        .collect();
    loop {
        let mut waited = vec![PollFd::new(signals, PollFlags::IN)];
        waited.extend(
            attended
                .iter()
                .map(|one| PollFd::new(one.socket, PollFlags::IN)),
        );
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::error!(%errno, "the sockets cannot be waited for");
                return;
            }
        }
        if !waited[0].revents().is_empty() && next_signal(signals).is_some() {
            return;
        }
        for (one, waited) in attended.iter().zip(&waited[1..]) {
            if waited.revents().is_empty() {
                continue;
            }
            if Arc::strong_count(&one.connections) > MOST_CONNECTIONS {
                thread::sleep(Duration::from_millis(100));
                continue;
            }
            accept(one, containers);
        }
    }
}

fn accept(attended: &Attended<'_>, containers: &Arc<Containers>) {
    let connection = match attended.socket.accept() {
        Ok(connection) => connection,
        // It has gone again.
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
        Err(errno) => {
            tracing::error!(%errno, "no connection can be accepted");
            thread::sleep(Duration::from_millis(100));
            return;
        }
    };
    let (containers, path) = (Arc::clone(containers), attended.socket.path().to_path_buf());
    let (counted, protocol) = (Arc::clone(&attended.connections), attended.protocol);
    let work = move || {
        let done = match protocol {
            Protocol::Oci => oci::attend(connection.as_fd(), &containers),
            Protocol::LxcProxy => lxc_proxy::attend(connection.as_fd(), &containers),
        };
        if let Err(error) = done {
            tracing::warn!("a message to {} is refused: {error}", Shown::path(&path));
        }
        drop(counted);
    };
    let thread = thread::Builder::new()
        .name("container".to_owned())
        .stack_size(STACK);
    if let Err(error) = thread.spawn(work) {
        tracing::error!(%error, "a message cannot be received");
    }
}
