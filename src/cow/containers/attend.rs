//! Accepts connections of runtimes, each in a thread of its own, until a signal ends it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::socket::Socket;
use super::{Containers, oci};
use crate::cow::broker::serve::STACK;
use crate::display::Shown;
use crate::sys::process::next_signal;

/// Messages that are received at once; others wait to be accepted.
const MOST_MESSAGES: usize = 256;

/// Serves containers until a signal can be read of `signals`. Those that are served then are so no more
/// when this process ends.
pub fn attend(socket: &Socket, containers: &Arc<Containers>, signals: &OwnedFd) {
    let receiving = Arc::new(());
    loop {
        let mut waited = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(socket, PollFlags::IN),
        ];
        match poll(&mut waited, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::error!(%errno, "the socket cannot be waited for");
                return;
            }
        }
        if !waited[0].revents().is_empty() && next_signal(signals).is_some() {
            return;
        }
        if waited[1].revents().is_empty() {
            continue;
        }
        if Arc::strong_count(&receiving) > MOST_MESSAGES {
            thread::sleep(Duration::from_millis(100));
            continue;
        }
        accept(socket, containers, Arc::clone(&receiving));
    }
}

fn accept(socket: &Socket, containers: &Arc<Containers>, counted: Arc<()>) {
    let connection = match socket.accept() {
        Ok(connection) => connection,
        // It has gone again.
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
        Err(errno) => {
            tracing::error!(%errno, "no connection can be accepted");
            thread::sleep(Duration::from_millis(100));
            return;
        }
    };
    let (containers, path) = (Arc::clone(containers), socket.path().to_path_buf());
    let work = move || {
        if let Err(error) = oci::attend(connection.as_fd(), &containers) {
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
