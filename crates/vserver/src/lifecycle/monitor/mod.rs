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
//! | `mounts` | mounts root and terminal of the guest |
//! | `watch` | watches init, and tidies up when it has ended |

mod create;
pub(super) mod mounts;
mod watch;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use create::{WatcherDescriptors, create};
use vhashify_config::running::Ended;
use vhashify_sys::pidfd::Process;
pub use watch::watch;

use super::inherited;
use super::order::{Answer, Order, watch_command};
use super::state::{StateDirectory, now};
use super::tidy::tidy;

/// Makes a guest's init as ordered, answers, and becomes its watcher.
#[must_use]
pub fn make() -> ExitCode {
    inherited::forget_caller();
    let mut text = Vec::new();
    let order = io::stdin()
        .read_to_end(&mut text)
        .ok()
        .and_then(|_| serde_json::from_slice::<Order>(&text).ok());
    let Some(order) = order else {
        return ExitCode::FAILURE;
    };
    let state = StateDirectory::new(&order.state_dir, &order.name);
    let mut running = order.running.clone();
    running.monitor = Process::this();
    running.broker = order.has_broker.then_some(running.monitor);
    let created = create(&order, &state, &mut running);
    // If somebody killed the starter, nobody reads the answer, but the guest that runs still needs its monitor.
    vhashify_sys::process::ignore_broken_pipes();
    match created {
        Ok(created) => {
            answer(&Answer::Started);
            become_watcher(&state, &order.origin, &created);
        }
        Err(error) => {
            mounts::unmount(&state);
            drop(tidy(&state, &running, Ended::unseen(now())));
            answer(&Answer::Failed(error.to_string()));
        }
    }
    ExitCode::FAILURE
}

fn answer(answer: &Answer) {
    let text = serde_json::to_string(answer).unwrap_or_default();
    drop(writeln!(io::stdout(), "{text}"));
}

/// Becomes the watcher. Returns only if no program can be executed.
fn become_watcher(state: &StateDirectory, origin: &Path, created: &WatcherDescriptors) {
    // If the program on the disk is gone, this one can watch as well.
    for program in [origin, Path::new("/proc/self/exe")] {
        let mut command = watch_command(program, state);
        // Keeps the pipe open across exec: the kernel drops its content with the last descriptor.
        if let Ok(console) = created.console.try_clone() {
            command.stdin(Stdio::from(console));
        }
        let socket = created.socket.as_ref().map(UnixListener::try_clone);
        if let Some(Ok(socket)) = socket {
            command.stdout(Stdio::from(OwnedFd::from(socket)));
        }
        drop(command.exec());
    }
}
