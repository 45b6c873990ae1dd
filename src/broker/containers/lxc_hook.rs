//! Serves a container of LXC before its init is executed. LXC announces it by `lxc.hook.pre-start`.
//!
//! Before LXC executes a container's init, it opens `/dev/null` for writing under the filter. Its monitor waits for that
//! call and asks the proxy only afterwards, so with the proxy alone such a container never starts. Therefore the broker
//! copies the listener from the process that loads the filter, as soon as the listener exists (`pidfd_getfd(2)`), and
//! answers calls until that process executes init.
//!
//! ```text
//! monitor       pre-start ───────▶ makes a process ──── waits for it ────────────────── asks the proxy
//! the hook         └─ pidfd of the monitor ─┐
//! the process                               │       loads the filter ─ opens /dev/null ─ executes init
//! the broker                                └─ polls ─ polls ─ copies it ─ answers ───── closes it
//! ```
//!
//! Then the broker stops at once: if it received a call that the monitor waits for, too, the monitor would block in the
//! kernel and react to no `lxc-stop`. While the process still runs LXC's own program, the monitor waits for no call.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, getppid, pidfd_getfd, pidfd_open,
};
use serde_json::json;
use thiserror::Error;
use vhashify_sys::call_error::CallError;
use vhashify_sys::procfs;
use vhashify_sys::seccomp::Listener;
use vhashify_sys::shown::Shown;

use super::Containers;
use super::error::ConnectionError;
use super::process::has_ended;
use super::protocol::{FILTER_TIMEOUT, MONITOR};
use crate::broker::message::send;
use crate::broker::serve::{obey_quotas, respond_for_another};

/// How long to poll for the filter at short intervals. Most containers load it sooner.
const USUAL_TIME: Duration = Duration::from_secs(2);
/// How long to wait between two polls, before and after [`USUAL_TIME`].
const POLL_INTERVALS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// How long to wait for a call before checking again whether init is executed.
const CALL_TIMEOUT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// Why the hook could not announce a container to the broker.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HookError {
    /// A program other than LXC called this one.
    #[error(
        "it was not called by LXC; name it as lxc.hook.pre-start in a container's configuration"
    )]
    NotCalled,
    /// No broker listens.
    #[error("no broker listens on {}: {source}; start it first", Shown::path(path))]
    NoBroker {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A call failed.
    #[error(transparent)]
    System(#[from] CallError),
}

/// Announces to the broker at `socket` that the monitor, which called this program, starts the container `name`.
///
/// # Errors
/// [`HookError`].
pub fn announce(socket: &Path, name: &str) -> Result<(), HookError> {
    let monitor = caller().ok_or(HookError::NotCalled)?;
    let handle = pidfd_open(monitor, PidfdFlags::empty()).map_err(|_| HookError::NotCalled)?;
    let connection = UnixStream::connect(socket).map_err(|source| HookError::NoBroker {
        path: socket.to_path_buf(),
        source,
    })?;
    let message = json!({
        "fds": [MONITOR],
        "pid": monitor.as_raw_pid(),
        "state": { "id": name },
    });
    let message = message.to_string().into_bytes();
    send(connection.as_fd(), &message, handle.as_fd())
        .map_err(|errno| CallError::new("sendmsg", socket, errno))?;
    Ok(())
}

/// The process that called this one, directly or through a shell.
fn caller() -> Option<Pid> {
    let parent = getppid()?;
    let number = parent.as_raw_pid().cast_unsigned();
    if !matches!(
        procfs::read(number, "comm").ok()?.trim_end(),
        "sh" | "dash" | "bash"
    ) {
        return Some(parent);
    }
    Pid::from_raw(procfs::status(number).ok()?.number("PPid")?)
}

/// Answers the calls of the container `name`, which `monitor` starts, until its init is executed. Then waits until init
/// ends, so that all calls of the container have the same broker.
///
/// # Errors
/// [`ConnectionError`]: the monitor has ended, or starts nothing under a filter with a listener.
pub fn serve_start(
    monitor: &OwnedFd,
    number: i32,
    name: &str,
    containers: &Containers,
) -> Result<(), ConnectionError> {
    let Started {
        process,
        handle,
        listener,
    } = await_filter(monitor, number)?;
    let handler = containers.choose(process, name)?.handler;
    obey_quotas();
    while is_program_of(process, number) {
        if !listener.has_call(&CALL_TIMEOUT) || !is_program_of(process, number) {
            continue;
        }
        let received = listener.receive();
        let Some(call) = received.map_err(|errno| ConnectionError::Receive(errno.into()))? else {
            break;
        };
        let response = respond_for_another(&*handler, &listener, &call);
        listener
            .answer(&call, response)
            .map_err(|errno| ConnectionError::Receive(errno.into()))?;
    }
    drop(listener);
    let mut waited = [PollFd::new(&handle, PollFlags::IN)];
    while poll(&mut waited, None) == Err(Errno::INTR) {}
    Ok(())
}

/// The process that becomes a container's init.
struct Started {
    process: i32,
    handle: OwnedFd,
    listener: Listener,
}

fn await_filter(monitor: &OwnedFd, number: i32) -> Result<Started, ConnectionError> {
    let begun = Instant::now();
    loop {
        // The kernel lists children by thread, and a monitor has one thread.
        let found = procfs::children(number).into_iter().find_map(|process| {
            // Opened first, so that the listener found below is this process's.
            let handle = pidfd_open(Pid::from_raw(process)?, PidfdFlags::empty()).ok()?;
            // The process may have sent the listener to the monitor and closed its own descriptor.
            let listener =
                listener_of(&handle, process).or_else(|| listener_of(monitor, number))?;
            Some(Started {
                process,
                handle,
                listener,
            })
        });
        if let Some(found) = found {
            return Ok(found);
        }
        if has_ended(monitor) {
            return Err(ConnectionError::Gone { process: number });
        }
        let waited = begun.elapsed();
        if waited > FILTER_TIMEOUT {
            return Err(ConnectionError::NoFilterYet { process: number });
        }
        std::thread::sleep(POLL_INTERVALS[usize::from(waited > USUAL_TIME)]);
    }
}

/// Whether a process still executes the program of the monitor `number`.
fn is_program_of(process: i32, number: i32) -> bool {
    let program = |process: i32| {
        let found = fs::metadata(procfs::path(process, "exe")).ok()?;
        Some((found.dev(), found.ino()))
    };
    program(process).is_some_and(|own| program(number) == Some(own))
}

/// A copy of the process's listener, if it has one whose filter still has a process.
fn listener_of(handle: &OwnedFd, process: i32) -> Option<Listener> {
    let mut numbers = procfs::descriptors(process).ok()?.into_iter();
    numbers.find_map(|number: ForeignRawFd| {
        let copy = pidfd_getfd(handle, number, PidfdGetfdFlags::empty()).ok()?;
        let listener = Listener::is_one(copy.as_fd()).then(|| Listener::from(copy))?;
        (!listener.has_ended()).then_some(listener)
    })
}
