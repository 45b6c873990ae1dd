//! Names and limits of the messages that runtimes and LXC's hook send.

use std::time::Duration;

/// The most bytes of a message; a container may have many annotations.
pub const LONGEST_MESSAGE: usize = 1 << 20;
/// How long a whole message may take.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a container of LXC may take from its first hook to its filter. Between them it runs other hooks and sets up
/// networks and mounts.
pub const FILTER_TIMEOUT: Duration = Duration::from_mins(10);

/// The name of the listener among the descriptors of a message.
pub const LISTENER: &str = "seccompFd";
/// The name of a pidfd of LXC's monitor. LXC's hook sends that instead of the listener, which does not exist yet.
pub const MONITOR: &str = "vhashifyLxcMonitorFd";
