//! What LXC's monitor tells before it starts a container, by `lxc.hook.pre-start`, and how the listener is had then.
//!
//! LXC's init opens `/dev/null` for writing under the filter, before its monitor asks the proxy anything, and the
//! monitor waits for init: with the proxy alone such a container never starts. So the broker takes the listener
//! from the process that loads the filter, as soon as it is there (`pidfd_getfd(2)`).
//!
//! ```text
//! monitor       pre-start ─────────▶ makes init ───── waits for init ─────────────── asks the proxy
//! the hook         └─ pidfd of the monitor ─┐
//! init                                      │         loads the filter ─ opens /dev/null ─ exec
//! the broker                                └─ looks ─ looks ─ has it ─ answers
//! ```

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{
    ForeignRawFd, Pid, PidfdFlags, PidfdGetfdFlags, getppid, pidfd_getfd, pidfd_open,
};
use serde_json::json;
use thiserror::Error;

use super::error::Unserved;
use super::oci::MONITOR;
use super::root::has_ended;
use crate::cow::broker::message::send;
use crate::display::Shown;
use crate::error::SystemError;
use crate::sys::notification::Listener;
use crate::sys::other_process::tell;

/// How long a container may take from its first hook to its filter: networks and mounts come in between.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked for. Init waits as long, once.
const LOOK: Duration = Duration::from_millis(1);

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
    System(#[from] SystemError),
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
        .map_err(|errno| SystemError::new("sendmsg", socket, errno))?;
    Ok(())
}

/// The process that has called this one, or the shell that did so for it.
fn caller() -> Option<Pid> {
    let parent = getppid()?;
    let number = parent.as_raw_pid().cast_unsigned();
    if !matches!(
        tell(number, "comm").ok()?.trim_end(),
        "sh" | "dash" | "bash"
    ) {
        return Some(parent);
    }
    let status = tell(number, "status").ok()?;
    let above = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Pid::from_raw(above.trim().parse().ok()?)
}

/// Waits until the container that `monitor` starts has loaded its filter. Returns the number of its init's process,
/// and the listener.
///
/// # Errors
/// [`Unserved`]: it has ended, or loads no filter with calls that wait.
pub fn await_listener(monitor: &OwnedFd, number: i32) -> Result<(i32, OwnedFd), Unserved> {
    let begun = Instant::now();
    let gone = || Unserved::Gone { process: number };
    loop {
        let inits = children(number);
        let found = inits.iter().copied().find_map(|init| {
            // First, so that what is listed is no other process's.
            let handle = pidfd_open(Pid::from_raw(init)?, PidfdFlags::empty()).ok()?;
            Some((init, listener_of(&handle, init)?))
        });
        if let Some(found) = found {
            return Ok(found);
        }
        // Init sends it to the monitor, and closes it.
        if let (Some(&init), Some(listener)) = (inits.last(), listener_of(monitor, number)) {
            return Ok((init, listener));
        }
        if has_ended(monitor) {
            return Err(gone());
        }
        if begun.elapsed() > PATIENCE {
            return Err(Unserved::NoFilterYet { process: number });
        }
        std::thread::sleep(LOOK);
    }
}

/// The processes that a process has made, oldest first.
fn children(process: i32) -> Vec<i32> {
    // Listed by thread; a monitor has one.
    let listed = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let listed = listed.unwrap_or_default();
    listed
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect()
}

/// A copy of the descriptor of a process that is a listener, if it has one of a filter that somebody is under.
fn listener_of(handle: &OwnedFd, process: i32) -> Option<OwnedFd> {
    let listed = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
    let mut numbers = listed
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let copy = |number: ForeignRawFd| {
        let copy = pidfd_getfd(handle, number, PidfdGetfdFlags::empty()).ok()?;
        let is_live = Listener::is_one(copy.as_fd())
            && copy
                .try_clone()
                .is_ok_and(|copy| !Listener::from(copy).has_ended());
        is_live.then_some(copy)
    };
    numbers.find_map(copy)
}
