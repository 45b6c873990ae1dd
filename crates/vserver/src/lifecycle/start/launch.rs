//! Writes the files that the monitor and `libcontainer` read, runs the monitor, and waits for its answer.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Stdio;

use vhashify_config::running::Running;

use super::super::LifecycleError;
use super::super::error::Doing;
use super::super::order::{Answer, MAKE, Order};
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
pub fn launch(state: &StateDirectory, order: &Order, vdir: OwnedFd) -> Result<(), LifecycleError> {
    let program = Path::new("/proc/self/exe");
    let sealed = Sealed::new().doing("seal", program)?;
    let mut command = sealed.command();
    command
        .arg(MAKE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // The checked vdir, handed over as a descriptor: its path may lead elsewhere by now.
        .stderr(Stdio::from(vdir));
    vhashify_sys::process::in_own_session(&mut command, None);
    let mut child = command.spawn().doing("start the monitor", program)?;
    drop(sealed);
    if let Some(mut stdin) = child.stdin.take() {
        let text = serde_json::to_vec(order).unwrap_or_default();
        stdin
            .write_all(&text)
            .doing("write to the monitor", program)?;
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .doing("read from the monitor", program)?;
    }
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
            Err(failed(format!("its monitor ended early, with {status}")))
        }
    }
}
