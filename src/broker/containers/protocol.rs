//! Names and limits of the messages that runtimes and LXC's hook send.

use std::time::Duration;

/// Bytes of a message: annotations may be many.
pub const LONGEST_MESSAGE: usize = 1 << 20;
/// How long a whole message may take.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a container of LXC may take from its first hook to its filter: other hooks, networks and mounts come in
/// between.
pub const FILTER_TIMEOUT: Duration = Duration::from_mins(10);

/// The name of the listener among the descriptors of a message.
pub const LISTENER: &str = "seccompFd";
/// The name of a container's monitor of LXC, which comes in the listener's place: the listener does not exist yet.
pub const MONITOR: &str = "vhashifyLxcMonitorFd";
