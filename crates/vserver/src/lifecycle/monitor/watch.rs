//! Watches a guest until its init ends: console, broker, exit status. Then tidies up, and starts the guest again if it
//! rebooted itself.

use std::ffi::OsString;
use std::os::fd::AsFd;
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

use super::super::broker;
use super::super::console::ConsoleReader;
use super::super::sealed;
use super::super::state::{StateDirectory, now};
use super::super::tidy::tidy;
use super::mounts::unmount;

/// Watches a guest until it ends, and tidies up. Arguments: directory of all states, guest.
#[must_use]
pub fn watch(arguments: &[OsString]) -> ExitCode {
    let [top, name] = arguments else {
        return ExitCode::FAILURE;
    };
    let state = StateDirectory::new(Path::new(top), &name.to_string_lossy());
    let recorded = || state.running().ok().flatten();
    let watched = recorded().and_then(|running| running.init.map(|init| (running, init)));
    let Some((running, init)) = watched else {
        return ExitCode::FAILURE;
    };
    let unlimited = limit_own_memory();
    if running.broker == Some(Process::this()) {
        start_broker(&state, &running);
    }
    let ended = follow(&state, init);
    if recorded().and_then(|running| running.init) != Some(init) {
        // Another process has tidied up, and the guest may run again already.
        return ExitCode::SUCCESS;
    }
    unmount(&state);
    let is_stopping = state.at("stopping").exists();
    if tidy(&state, &running, ended).is_err() {
        return ExitCode::FAILURE;
    }
    // If the guest calls reboot(2), the kernel ends its init with SIGHUP for a restart, with SIGINT for a halt.
    if ended.signal == Some(libc::SIGHUP) && !is_stopping {
        let _ = setrlimit(Resource::Data, unlimited);
        start_again(&running.config_dir, &state);
    }
    ExitCode::SUCCESS
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

/// Starts a thread that serves the guest's calls. The socket is the standard output: see [`make`](super::make).
fn start_broker(state: &StateDirectory, running: &Running) {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3);
    let breaker = broker::breaker(state.name(), running);
    let (Ok(socket), Ok(breaker)) = (socket, breaker) else {
        // The listeners close with the socket, and the guest's calls fail from now on.
        tracing::error!("{} has no broker: its root directory is gone", state.name());
        return;
    };
    let running = running.clone();
    let accept = move || broker::accept_loop(&UnixListener::from(socket), breaker, &running);
    if let Err(error) = thread::Builder::new().spawn(accept) {
        tracing::error!(%error, "{} has no broker", state.name());
    }
}

fn start_again(config_dir: &Path, state: &StateDirectory) {
    let mut command = Command::new(sealed::program_on_disk());
    command
        .arg0("vserver")
        .arg("--silent")
        .arg("--config-dir")
        .arg(config_dir)
        .arg("--state-dir")
        .arg(state.top())
        .args([state.name(), "start"])
        // This process's own may be the broker's socket.
        .stdout(Stdio::null());
    drop(command.exec());
}

/// Copies the console into the log until init ends, and returns how it ended.
fn follow(state: &StateDirectory, init: Process) -> Ended {
    let mut console = ConsoleReader::open(state);
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
