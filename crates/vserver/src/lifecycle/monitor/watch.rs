//! Watches a guest until its init ends: console, broker, exit status. Then tidies up, and starts the guest again if it
//! rebooted itself.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Resource, Rlimit, WaitId, WaitIdOptions, WaitIdStatus, getrlimit, setrlimit, waitid,
};
use vhashify_config::running::{Ended, Running};
use vhashify_sys::pidfd::Process;
use vhashify_sys::process::adopt_number;

use super::super::broker;
use super::super::console::ConsoleReader;
use super::super::order::{CONSOLE, SOCKET};
use super::super::reboot;
use super::super::sealed;
use super::super::state::{StateDirectory, now};
use super::super::tidy::tidy;
use super::log;
use super::mounts::unmount;

/// Watches a guest until it ends, and tidies up. Arguments: directory of all states, guest, and the descriptors that the
/// monitor which made the guest has left open.
#[must_use]
pub fn watch(arguments: &[OsString]) -> ExitCode {
    let [top, name, kept @ ..] = arguments else {
        return ExitCode::FAILURE;
    };
    let state = StateDirectory::new(Path::new(top), &name.to_string_lossy());
    log::start(&state);
    let recorded = || state.running().ok().flatten();
    let watched = recorded().and_then(|running| running.init.map(|init| (running, init)));
    let Some((running, init)) = watched else {
        tracing::error!("there is no guest to watch: its state is gone");
        return ExitCode::FAILURE;
    };
    let unlimited = limit_own_memory();
    let (console, socket) = (
        kept_descriptor(kept, CONSOLE),
        kept_descriptor(kept, SOCKET),
    );
    if running.broker == Some(Process::this()) {
        start_broker(&state, &running, socket);
    } else if console.is_none() {
        tracing::warn!("its monitor was gone; this one goes on");
        if running.broker.is_some() {
            tracing::error!("its broker was gone, too, and its calls fail: restart it");
        }
    }
    let ended = follow(&state, init, console);
    tracing::info!("{}", how(&ended));
    if recorded().and_then(|running| running.init) != Some(init) {
        // Another process has tidied up, and the guest may run again already.
        return ExitCode::SUCCESS;
    }
    unmount(&state);
    // If the guest calls reboot(2), the kernel ends its init with SIGHUP for a restart, with SIGINT for a halt.
    let has_rebooted = ended.signal == Some(libc::SIGHUP) && !state.at("stopping").exists();
    // Before it counts as stopped: a command that stops it then finds that it is to be started again.
    let reboot = has_rebooted.then(|| reboot::note(&state, &running));
    if let Err(error) = tidy(&state, &running, ended) {
        tracing::error!("something of it is left: {error}");
        return ExitCode::FAILURE;
    }
    if let Some(reboot) = reboot {
        tracing::info!("it is started again in {} s", reboot.left());
        if reboot::wait(&state, reboot) {
            let _ = setrlimit(Resource::Data, unlimited);
            start_again(&running.config_dir, &state);
        }
    }
    ExitCode::SUCCESS
}

/// The descriptor whose number follows `name` in one of the arguments.
fn kept_descriptor(arguments: &[OsString], name: &str) -> Option<OwnedFd> {
    let mut numbers = arguments
        .iter()
        .filter_map(|argument| argument.to_str()?.strip_prefix(name));
    adopt_number(numbers.find_map(|number| number.parse().ok())?).ok()
}

/// How it ended, for the log.
fn how(ended: &Ended) -> String {
    match (ended.status, ended.signal) {
        (Some(status), _) => format!("init has exited with status {status}"),
        (_, Some(libc::SIGHUP)) => "it reboots".to_owned(),
        (_, Some(signal)) => format!("init was ended by signal {signal}"),
        _ => "init has ended".to_owned(),
    }
}

/// How much memory of its own a monitor may have. It needs a few MiB; what takes more does so for a guest, which then has
/// no broker any more.
const MOST_MEMORY: u64 = 512 << 20;

/// Limits this process's memory. Returns the limit that it had.
fn limit_own_memory() -> Rlimit {
    let before = getrlimit(Resource::Data);
    let current = before
        .current
        .map_or(MOST_MEMORY, |own| own.min(MOST_MEMORY));
    let _ = setrlimit(
        Resource::Data,
        Rlimit {
            current: Some(current),
            ..before
        },
    );
    before
}

/// Starts a thread that serves the guest's calls.
fn start_broker(state: &StateDirectory, running: &Running, socket: Option<OwnedFd>) {
    let (Some(socket), Ok(breaker)) = (socket, broker::breaker(state.name(), running)) else {
        // The listeners close with the socket, and the guest's calls fail from now on.
        tracing::error!("it has no broker: its root directory is gone");
        return;
    };
    let running = running.clone();
    let accept = move || broker::accept_loop(&UnixListener::from(socket), breaker, &running);
    if let Err(error) = thread::Builder::new().spawn(accept) {
        tracing::error!(%error, "it has no broker");
    }
}

/// Starts the guest again, which has a monitor of its own then.
fn start_again(config_dir: &Path, state: &StateDirectory) {
    let mut command = Command::new(sealed::program_on_disk());
    command
        .arg0("vserver")
        .arg("--config-dir")
        .arg(config_dir)
        .arg("--state-dir")
        .arg(state.top())
        .args([state.name(), "start", "--rebooted"])
        .stdin(Stdio::null());
    match command.output() {
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                tracing::warn!("starting it again: {line}");
            }
            if !output.status.success() {
                tracing::error!("it is not started again: {}", output.status);
            }
        }
        Err(error) => tracing::error!(%error, "it cannot be started again"),
    }
}

/// Copies the console into the log until init ends, and returns how it ended.
fn follow(state: &StateDirectory, init: Process, console: Option<OwnedFd>) -> Ended {
    let mut console = ConsoleReader::open(state, console);
    let Some(handle) = init.open() else {
        // Init has ended already, but may still be this process's child.
        console.drain_last();
        return how_it_ended(Pid::from_raw(init.pid).map(WaitId::Pid));
    };
    loop {
        let mut waited = vec![PollFd::new(&handle, PollFlags::IN)];
        let mut timeout = None;
        match console.source() {
            Ok(source) => {
                waited.extend(source.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            }
            Err(pause) => timeout = Timespec::try_from(pause).ok(),
        }
        let _ = poll(&mut waited, timeout.as_ref());
        let has_ended = !waited[0].revents().is_empty();
        drop(waited);
        console.drain();
        if has_ended {
            console.drain_last();
            return how_it_ended(Some(WaitId::PidFd(handle.as_fd())));
        }
    }
}

/// Reads the exit status. Unknown if init is not this process's child.
fn how_it_ended(init: Option<WaitId<'_>>) -> Ended {
    let seen = init.and_then(|init| waitid(init, WaitIdOptions::EXITED).ok().flatten());
    Ended {
        status: seen.as_ref().and_then(WaitIdStatus::exit_status),
        signal: seen.as_ref().and_then(WaitIdStatus::terminating_signal),
        at: now(),
    }
}
