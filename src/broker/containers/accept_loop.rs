//! Accepts connections of runtimes until a signal comes, and serves each in a thread of its own.

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

/// The most connections to a socket that are served at once; further ones wait in the kernel. A runtime's connection
/// carries one message, a connection of LXC's monitor lasts as long as its container.
const MOST_CONNECTIONS: usize = 4096;

/// The protocol of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OCI runtimes and LXC's hook speak it.
    Oci,
    /// LXC's monitors speak it.
    LxcProxy,
}

struct Endpoint<'a> {
    socket: &'a Socket,
    protocol: Protocol,
    /// Counts connections: the thread of each holds a reference.
    connections: Arc<()>,
}

/// Serves containers until a signal can be read from `signals`. The serving threads still run then: the caller must end
/// this process.
pub fn accept_loop(
    sockets: &[(Socket, Protocol)],
    containers: &Arc<Containers>,
    signals: &OwnedFd,
) {
    let endpoints: Vec<Endpoint<'_>> = sockets
        .iter()
        .map(|(socket, protocol)| Endpoint {
            socket,
            protocol: *protocol,
            connections: Arc::new(()),
        })
        .collect();
    loop {
        let mut waited = vec![PollFd::new(signals, PollFlags::IN)];
        waited.extend(
            endpoints
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
        for (one, waited) in endpoints.iter().zip(&waited[1..]) {
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

fn accept(endpoint: &Endpoint<'_>, containers: &Arc<Containers>) {
    let connection = match endpoint.socket.accept() {
        Ok(connection) => connection,
        // The other side has closed it already.
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
        Err(errno) => {
            tracing::error!(%errno, "no connection can be accepted");
            thread::sleep(Duration::from_millis(100));
            return;
        }
    };
    let (containers, path) = (Arc::clone(containers), endpoint.socket.path().to_path_buf());
    let (counted, protocol) = (Arc::clone(&endpoint.connections), endpoint.protocol);
    let work = move || {
        let done = match protocol {
            Protocol::Oci => oci::serve_connection(connection.as_fd(), &containers),
            Protocol::LxcProxy => lxc_proxy::serve_connection(connection.as_fd(), &containers),
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
