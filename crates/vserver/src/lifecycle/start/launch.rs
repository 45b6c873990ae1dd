//! Writes the files that the monitor and `libcontainer` read, runs the monitor, and waits for its answer.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use vhashify::broker::message;
use vhashify_config::running::Running;
use vhashify_sys::shown::Shown;

use super::super::LifecycleError;
use super::super::error::Doing;
use super::super::order::{Answer, MAKE, Order, VDIR};
use super::super::sealed::Sealed;
use super::super::state::StateDirectory;
use crate::context::cgroup;

/// Makes the container's bundle, limits how many cgroups the guest can make, and writes `guest.json`.
pub fn prepare(
    state: &StateDirectory,
    running: &Running,
    spec: &serde_json::Value,
) -> Result<(), LifecycleError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    for below in ["bundle/rootfs", "container"] {
        let path = state.at(below);
        builder.create(&path).doing("mkdir", &path)?;
    }
    // A stop that was killed leaves it.
    drop(fs::remove_file(state.at("stopping")));
    let path = state.at("bundle/config.json");
    fs::write(&path, spec.to_string()).doing("write", &path)?;
    cgroup::set_tree_limits(running.context)
        .doing("write into a cgroup", Path::new("/sys/fs/cgroup"))?;
    state.write_running(running)
}

/// Runs the monitor and waits for its answer.
pub fn launch(state: &StateDirectory, order: &Order, vdir: &OwnedFd) -> Result<(), LifecycleError> {
    let program = Path::new("/proc/self/exe");
    let (socket, other) = UnixStream::pair().doing("make a socket for the monitor", program)?;
    let sealed = Sealed::new().doing("seal", program)?;
    let mut command = sealed.command();
    command
        .arg(MAKE)
        .stdin(Stdio::from(OwnedFd::from(other)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    vhashify_sys::process::in_own_session(&mut command, None);
    let mut child = command.spawn().doing("start the monitor", program)?;
    // With it this process's copy of the other end, so that it sees when the monitor ends.
    drop(command);
    drop(sealed);
    let mut line = String::new();
    send(&socket, order, vdir).doing("write to the monitor", program)?;
    BufReader::new(&socket)
        .read_line(&mut line)
        .doing("read from the monitor", program)?;
    let failed = |reason: String| LifecycleError::Start {
        name: state.name().to_owned(),
        reason,
    };
    match serde_json::from_str(&line) {
        Ok(Answer::Started) => Ok(()),
        Ok(Answer::Failed(reason)) => {
            drop(child.wait());
            Err(failed(reason))
        }
        Err(_) => {
            let status = child.wait().doing("wait for the monitor", program)?;
            let log = state.at("monitor.log");
            Err(failed(format!(
                "its monitor ended early, with {status}; {} may say more",
                Shown::path(&log)
            )))
        }
    }
}

/// Sends the checked vdir, since its path may lead elsewhere by now, and the order.
fn send(socket: &UnixStream, order: &Order, vdir: &OwnedFd) -> io::Result<()> {
    message::send(socket.as_fd(), &[VDIR], vdir.as_fd())?;
    let mut to = socket;
    to.write_all(&serde_json::to_vec(order)?)?;
    socket.shutdown(Shutdown::Write)
}
