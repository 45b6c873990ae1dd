//! The process that makes a guest's init, and watches it until it ends.
//!
//! ```text
//! MAKE    the sealed program: makes mounts, container and init; answers; becomes ↓
//! WATCH   the program on the disk, so that monitors share its memory: console, exit, tidying
//! ```
//!
//! A monitor mounts the guest's root in a mount namespace of its own: when monitor and guest have ended, however they
//! did, the mounts are gone, too. If somebody kills the monitor, the next command that mends the guest's state starts
//! a successor. Meanwhile the guest runs on: it holds its console's pipe open itself.
//!
//! | file | what it does |
//! | --- | --- |
//! | `create` | makes init, as ordered |
//! | `log` | where it says what happens |
//! | `mounts` | mounts root and terminal of the guest |
//! | `watch` | watches init, and tidies up when it has ended |

mod create;
mod log;
pub(super) mod mounts;
mod watch;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

use create::{WatcherDescriptors, create};
use vhashify::broker::message;
use vhashify_config::running::Ended;
use vhashify_sys::pidfd::Process;
use vhashify_sys::process::{duplicate_onto, keep_on_exec};
use vhashify_sys::shown::Shown;
pub use watch::watch;

use super::inherited;
use super::order::{Answer, CONSOLE, Order, SOCKET, null, watch_command};
use super::state::{StateDirectory, now};
use super::tidy::tidy;

/// Makes a guest's init as ordered, answers, and becomes its watcher.
#[must_use]
pub fn make() -> ExitCode {
    inherited::forget_caller();
    let Ok((socket, order, vdir)) = take_order() else {
        return ExitCode::FAILURE;
    };
    let state = StateDirectory::new(&order.state_dir, &order.name);
    log::start(&state);
    let mut running = order.running.clone();
    running.monitor = Process::this();
    running.broker = order.has_broker.then_some(running.monitor);
    let created = create(&order, &state, &vdir, &mut running);
    drop(vdir);
    // If somebody killed the starter, nobody reads the answer, but the guest that runs still needs its monitor.
    vhashify_sys::process::ignore_broken_pipes();
    match created {
        Ok(created) => {
            let init = running.init.map_or(0, |init| init.pid);
            tracing::info!("started: context {}, init {init}", running.context);
            answer(&socket, &Answer::Started);
            drop(socket);
            become_watcher(&state, &order.origin, &created);
        }
        Err(error) => {
            tracing::error!("not started: {error}");
            mounts::unmount(&state);
            if let Err(error) = tidy(&state, &running, Ended::unseen(now())) {
                tracing::error!("something of it is left: {error}");
            }
            answer(&socket, &Answer::Failed(error.to_string()));
        }
    }
    ExitCode::FAILURE
}

/// Takes the socket from standard input, which is `/dev/null` from then on, and from it the order and the checked vdir.
fn take_order() -> io::Result<(UnixStream, Order, OwnedFd)> {
    let socket = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    duplicate_onto(null()?, 0)?;
    let piece = message::receive(socket.as_fd(), &mut [0])?;
    let vdir = piece.descriptors.into_iter().next();
    let vdir = vdir.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut text = Vec::new();
    (&socket).read_to_end(&mut text)?;
    Ok((socket, serde_json::from_slice(&text)?, vdir))
}

fn answer(mut socket: &UnixStream, answer: &Answer) {
    let text = serde_json::to_string(answer).unwrap_or_default();
    drop(writeln!(socket, "{text}"));
}

/// Becomes the watcher. Returns only if no program can be executed.
fn become_watcher(state: &StateDirectory, origin: &Path, created: &WatcherDescriptors) {
    let socket = created.socket.as_ref().map(AsFd::as_fd);
    // Keeps the pipe open across exec: the kernel drops its content with the last descriptor.
    let kept = [(CONSOLE, Some(created.console.as_fd())), (SOCKET, socket)];
    let kept = kept.map(|(name, descriptor)| {
        let descriptor = descriptor.filter(|descriptor| keep_on_exec(descriptor).is_ok())?;
        Some(format!("{name}{}", descriptor.as_raw_fd()))
    });
    // If the program on the disk is gone, this one can watch as well.
    for program in [origin, Path::new("/proc/self/exe")] {
        let mut command = watch_command(program, state);
        command.args(kept.iter().flatten());
        let error = command.exec();
        tracing::warn!(%error, "{} cannot be executed", Shown::path(program));
    }
}
