//! The messages between a starter and the monitor that makes the guest.
//!
//! ```text
//! start ── the vdir, Order ──▶ monitor          over a socket, which is standard input at first
//!       ◀── Answer ───────────
//! ```
//!
//! A guest outlives an upgrade of this program, and a watcher of the new version takes it over. So the command lines
//! and the fields of the order are a format: an added field has a default.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use vhashify_config::Style;
use vhashify_config::running::Running;

use super::state::StateDirectory;
use crate::context::limits::Limit;

/// The first argument of a monitor that makes a guest; its standard input is the socket on which the order comes.
pub const MAKE: &str = "--monitor-make";
/// The first argument of a monitor that watches a guest; the state directory and the guest's name follow, then descriptors
/// that are left open for it ([`CONSOLE`], [`SOCKET`]).
pub const WATCH: &str = "--monitor-watch";
/// The argument before the number of the monitor's end of the console.
pub const CONSOLE: &str = "--console=";
/// The argument before the number of the broker's socket.
pub const SOCKET: &str = "--broker=";

/// What a starter sends.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The guest.
    pub name: String,
    /// The directory of all guests' states.
    pub state_dir: PathBuf,
    /// The content of `guest.json`, still without init.
    pub running: Running,
    /// The program on the disk, which the monitor executes to watch the guest.
    #[serde(default)]
    pub origin: PathBuf,
    /// What its process 1 is.
    pub style: Style,
    /// Whether it has a user namespace.
    pub has_own_users: bool,
    /// Whether its monitor is its broker, too.
    pub has_broker: bool,
    /// The priority of all its processes.
    pub nice: Option<i32>,
    /// The limits of its cgroup.
    pub limits: Vec<Limit>,
    /// The limit of its processes, where `limits` has none.
    #[serde(default)]
    pub default_processes: Option<u64>,
    /// `sysctl/*`, of its own namespaces.
    pub sysctls: Vec<(String, String)>,
    /// `cgroup/*`.
    pub cgroup: Vec<(String, String)>,
    /// Its addresses and their names; `None` where it shares the host's network.
    pub network: Option<Vec<(IpAddr, String)>>,
}

/// What the monitor sends: one line.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Init runs.
    Started,
    /// Init does not run, and nothing of the guest is left. Says why, for the user.
    Failed(String),
}

/// The byte with which the checked vdir comes.
pub(super) const VDIR: u8 = b'v';

/// The command that watches the guest. It inherits no standard stream and no variable from its caller.
pub(super) fn watch_command(program: &Path, state: &StateDirectory) -> Command {
    let mut command = Command::new(program);
    command
        .arg0("vserver")
        .args([
            WATCH.as_ref(),
            state.top().as_os_str(),
            state.name().as_ref(),
        ])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// `/dev/null`, opened for reading, for a guest's standard input.
pub(super) fn null() -> std::io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}
