//! What a starter tells the monitor that makes a guest, and what it hears back.
//!
//! ```text
//! start ── MAKE, Order on standard input ──▶ monitor
//!       ◀── Answer on standard output ──────
//! ```
//!
//! A guest outlives an upgrade of this program, and a watcher of the new version takes it over. So the words of the
//! command lines and the fields of the order are a format: what is added has a default.

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

/// The first argument of a monitor that makes a guest; its order is on standard input.
pub const MAKE: &str = "--monitor-make";
/// The first argument of a monitor that watches a guest; the state directory and the guest's name follow.
pub const WATCH: &str = "--monitor-watch";

/// What a starter writes to the monitor's standard input.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The guest.
    pub name: String,
    /// The directory of all guests' states.
    pub state_dir: PathBuf,
    /// What `guest.json` is to say.
    pub running: Running,
    /// The program on the disk, which watches the guest.
    #[serde(default)]
    pub origin: PathBuf,
    /// What process 1 is.
    pub style: Style,
    /// Whether its users are others than the host's.
    pub has_own_users: bool,
    /// Whether its monitor breaks links for it.
    pub has_broker: bool,
    /// The priority of all its processes.
    pub nice: Option<i32>,
    /// The limits of its cgroup.
    pub limits: Vec<Limit>,
    /// `sysctl/*`, of its own namespaces.
    pub sysctls: Vec<(String, String)>,
    /// `cgroup/*`.
    pub cgroup: Vec<(String, String)>,
    /// Its addresses; none where the network is the host's.
    pub network: Option<Vec<(IpAddr, String)>>,
}

/// What the monitor writes to its standard output: one line.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Init runs.
    Started,
    /// Init does not run, and nothing of the guest is left: why, for the user.
    Failed(String),
}

/// The command that watches the guest, with no standard stream and no variable of its caller.
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

/// A file of the host's that a guest may neither read nor write, for its standard input.
pub(super) fn null() -> std::io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}
