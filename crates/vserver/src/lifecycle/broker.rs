//! The broker of a running guest. It is part of the guest's monitor.
//!
//! ```text
//! make: binds STATE/broker ─ libcontainer connects, sends init's listener ─┐
//! watch (after exec): has the socket as a descriptor ◀─────────────────────┘ accepts, serves
//! exec, enter: connect, send the listener of their own filter, wait for a byte
//! ```
//!
//! While the monitor becomes the watcher, connections to the socket wait, and so do the guest's calls. If the monitor
//! dies, its listeners close: from then on each call that the filter reports fails with `ENOSYS` ("function not
//! implemented"). A successor watches the guest, but cannot serve it; `status` says so, and a restart mends it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use rustix::net::{SendFlags, send};
use vhashify::broker::break_link::Breaker;
use vhashify::broker::serve::{THREADS_OF_COMMAND, THREADS_OF_INIT, serve};
use vhashify::broker::{Broker, message};
use vhashify::guest::{Guest, StoreLocation};
use vhashify_config::ConfigTree;

use super::error::Doing;
use super::{LifecycleError, Running, StateDirectory};
use crate::context::call_numbers::call_table;
use crate::context::cgroup;

/// The socket's name in the state directory.
const SOCKET: &str = "broker";
/// The monitor's answer once it serves a listener.
const SERVED: &[u8] = b"+";

/// Binds the socket that takes listeners.
///
/// # Errors
/// `bind(2)` failed.
pub fn bind(state: &StateDirectory) -> Result<UnixListener, LifecycleError> {
    let path = state.at(SOCKET);
    drop(std::fs::remove_file(&path));
    UnixListener::bind(&path).doing("bind", &path)
}

/// The path of the socket, as the specification has it.
#[must_use]
pub fn socket(state: &StateDirectory) -> String {
    state.at(SOCKET).to_string_lossy().into_owned()
}

/// Opens the root directory and the store of the guest `name` for its broker.
///
/// # Errors
/// The guest's root directory cannot be opened.
pub fn breaker(name: &str, running: &Running) -> Result<Breaker, LifecycleError> {
    let guest =
        Guest::open(name.as_ref(), &running.vdir).map_err(|error| LifecycleError::Vdir {
            name: name.to_owned(),
            vdir: running.vdir.clone(),
            reason: error.to_string(),
        })?;
    let store = store_of(name, &running.config_dir, guest.device);
    let context = running.context;
    let payer = move |_thread| cgroup::enter(context);
    Ok(Breaker::new(guest, store).paid_by(Arc::new(payer)))
}

/// The store on the guest's filesystem. Without it, each break walks the guest.
fn store_of(name: &str, config_dir: &Path, device: u64) -> Option<OwnedFd> {
    let tree = ConfigTree::open(config_dir).ok()?;
    let stores = tree.guest(name.as_ref()).ok()?.stores;
    let store = stores.into_iter().find(|store| store.device == device)?;
    Some(StoreLocation::open(&store.directory).ok()?.directory)
}

/// Accepts listeners on `socket` and serves them, as long as this process lives.
pub fn accept_loop(socket: &UnixListener, breaker: Breaker, running: &Running) {
    #[cfg(feature = "guard")]
    let _permit = match vhashify::protect::guard::Permit::acquire() {
        Ok(permit) => permit,
        Err(error) => {
            tracing::error!(%error, "the guard does not let the broker work");
            return;
        }
    };
    let context = running.context;
    let processes = Box::new(move || cgroup::processes(context).into_iter().collect());
    let broker = Arc::new(Broker::new(breaker, processes, Arc::new(call_table())));
    let mut threads = THREADS_OF_INIT;
    loop {
        let Ok((stream, _)) = socket.accept() else {
            // The process may be out of descriptors for a moment.
            std::thread::sleep(std::time::Duration::from_millis(100));
            continue;
        };
        if let Some(listener) = receive(&stream)
            && serve(&broker, listener.into(), threads).is_ok()
        {
            // The first listener is init's, and libcontainer does not wait for the answer.
            threads = THREADS_OF_COMMAND;
            let _ = send(&stream, SERVED, SendFlags::NOSIGNAL);
        }
    }
}

/// Connects to the broker of a guest that has one.
///
/// # Errors
/// The broker is dead.
pub fn connect(state: &StateDirectory) -> Result<UnixStream, LifecycleError> {
    let path = state.at(SOCKET);
    UnixStream::connect(&path).doing("connect", &path)
}

/// Hands a listener over and waits until the broker serves it.
///
/// # Errors
/// The broker is dead, or did not accept it.
pub fn hand_over(stream: &UnixStream, listener: BorrowedFd<'_>) -> std::io::Result<()> {
    message::send(stream.as_fd(), b"{}", listener)?;
    let mut answer = [0; 1];
    std::io::Read::read_exact(&mut &*stream, &mut answer)
}

/// Receives a listener: the descriptor that comes with the first bytes.
fn receive(stream: &UnixStream) -> Option<OwnedFd> {
    let piece = message::receive(stream.as_fd(), &mut [0; 4096]).ok()?;
    piece.descriptors.into_iter().next()
}
