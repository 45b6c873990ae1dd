//! What LXC's monitor tells before it starts a container, by `lxc.hook.pre-start`, and what the broker does then.
//!
//! Before LXC executes a container's init it opens `/dev/null` for writing under the filter, and its monitor waits for
//! that: it asks the proxy from then on only, so that with the proxy alone such a container never starts. So the
//! broker takes the listener from the process that loads the filter, as soon as it is there (`pidfd_getfd(2)`), and
//! answers until init is executed.
//!
//! ```text
//! monitor       pre-start ───────▶ makes a process ──── waits for it ────────────────── asks the proxy
//! the hook         └─ pidfd of the monitor ─┐
//! the process                               │       loads the filter ─ opens /dev/null ─ executes init
//! the broker                                └─ looks ─ looks ─ has it ─ answers ──────── leaves it
//! ```
//!
//! No longer: who waits for calls beside the monitor and is first leaves that waiting in the kernel, where it hears
//! no `lxc-stop`. As long as the process is LXC's own program, the monitor does not wait for calls yet.

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
use super::error::Unserved;
use super::oci::MONITOR;
use super::root::has_ended;
use crate::broker::message::send;
use crate::broker::serve::{judge_for_another, obey_quotas};

/// How long a container may take from its first hook to its filter: other hooks, networks and mounts come in between.
pub const PATIENCE: Duration = Duration::from_mins(10);
/// How long most take at the longest.
const MOSTLY: Duration = Duration::from_secs(2);
/// How often it is looked for, until then and later.
const LOOKS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];

/// How long a call is waited for before it is looked whether init is executed.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// Why the broker does not hear of a container.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HookError {
    /// Somebody else has called it.
    #[error(
        "it was not called by LXC; name it as lxc.hook.pre-start in a container's configuration"
    )]
    NotCalled,
    /// Nobody listens.
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

/// Tells the broker at `socket` that the monitor which has called this program starts the container `name`.
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

/// The process that has called this one, or the shell that did so for it.
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

/// Answers the calls of the container `name` that `monitor` starts, until its init is executed. Returns when init has
/// ended: as long there is one broker for all calls of the container.
///
/// # Errors
/// [`Unserved`]: the monitor has ended, or starts nothing with calls that wait.
pub fn attend(
    monitor: &OwnedFd,
    number: i32,
    name: &str,
    containers: &Containers,
) -> Result<(), Unserved> {
    let Started {
        process,
        handle,
        listener,
    } = await_filter(monitor, number)?;
    let judge = containers.choose(process, name)?.judge;
    obey_quotas();
    while is_program_of(process, number) {
        if !listener.has_call(&AT_ONCE) || !is_program_of(process, number) {
            continue;
        }
        let received = listener.receive();
        let Some(call) = received.map_err(|errno| Unserved::Receive(errno.into()))? else {
            break;
        };
        let verdict = judge_for_another(&*judge, &listener, &call);
        listener
            .answer(&call, verdict)
            .map_err(|errno| Unserved::Receive(errno.into()))?;
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

fn await_filter(monitor: &OwnedFd, number: i32) -> Result<Started, Unserved> {
    let begun = Instant::now();
    loop {
        // The kernel lists them by thread; a monitor has one.
        let found = procfs::children(number).into_iter().find_map(|process| {
            // First, so that what is listed is no other process's.
            let handle = pidfd_open(Pid::from_raw(process)?, PidfdFlags::empty()).ok()?;
            // It sends it to the monitor, and closes it.
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
            return Err(Unserved::Gone { process: number });
        }
        let waited = begun.elapsed();
        if waited > PATIENCE {
            return Err(Unserved::NoFilterYet { process: number });
        }
        std::thread::sleep(LOOKS[usize::from(waited > MOSTLY)]);
    }
}

/// Whether a process executes the same program as the monitor `number`.
fn is_program_of(process: i32, number: i32) -> bool {
    let program = |process: i32| {
        let found = fs::metadata(procfs::path(process, "exe")).ok()?;
        Some((found.dev(), found.ino()))
    };
    program(process).is_some_and(|own| program(number) == Some(own))
}

/// A copy of the descriptor of a process that is a listener, if it has one of a filter that somebody is under.
fn listener_of(handle: &OwnedFd, process: i32) -> Option<Listener> {
    let mut numbers = procfs::descriptors(process).ok()?.into_iter();
    numbers.find_map(|number: ForeignRawFd| {
        let copy = pidfd_getfd(handle, number, PidfdGetfdFlags::empty()).ok()?;
        let listener = Listener::is_one(copy.as_fd()).then(|| Listener::from(copy))?;
        (!listener.has_ended()).then_some(listener)
    })
}
