//! Errors of connections, each on one line.

use std::io;

use thiserror::Error;

use super::protocol::{FILTER_TIMEOUT, LONGEST_MESSAGE, MESSAGE_TIMEOUT};
use crate::guest::GuestError;

/// Why the broker does not serve a connection, or the process that its message names.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The message cannot be received.
    #[error("it cannot be received: {0}")]
    Receive(#[source] io::Error),
    /// The message is longer than any runtime's.
    #[error("it is longer than {} KiB, or comes in too many pieces; name this socket in a container's configuration only", LONGEST_MESSAGE >> 10)]
    TooLong,
    /// The rest of the message did not come in time.
    #[error("nothing more came for {} s; a runtime sends it whole", MESSAGE_TIMEOUT.as_secs())]
    TooSlow,
    /// The connection closed in the middle of the message.
    #[error("it ended before it was whole; start the container again")]
    Broken,
    /// The message is no `ContainerProcessState`.
    #[error(
        "it describes no process of a container (line {line}, column {column}); name this socket as listenerPath of an OCI runtime's configuration only"
    )]
    NotState {
        /// The line of the first mistake.
        line: usize,
        /// Its column.
        column: usize,
    },
    /// More descriptors came than this process can take.
    #[error(
        "more descriptors came with it than can be taken; raise the limit of open files (LimitNOFILE=) if many containers are served"
    )]
    TooManyDescriptors,
    /// No descriptor is the listener.
    #[error(
        "no descriptor that came with it is a listener of seccomp; give a call of the container's filter the action SCMP_ACT_NOTIFY"
    )]
    NoListener,
    /// The message does not come from LXC's monitor.
    #[error(
        "it is no call that LXC's monitor has received; name this socket as lxc.seccomp.notify.proxy only"
    )]
    NotProxied,
    /// A container of LXC has not loaded its filter in time.
    #[error(
        "the container that LXC's monitor {process} starts has loaded no filter with calls that wait in {} minutes; give it the profile that --print-profile=lxc prints", FILTER_TIMEOUT.as_secs() / 60
    )]
    NoFilterYet {
        /// The monitor.
        process: i32,
    },
    /// The process has ended.
    #[error("its process {process} has ended, or is in another PID namespace than this program")]
    Gone {
        /// The process.
        process: i32,
    },
    /// The process has no filter, so it is not the one that the runtime meant.
    #[error(
        "its process {process} has no filter of system calls, so that it is another one; run the runtime and this program in one PID namespace"
    )]
    NoFilter {
        /// The process.
        process: i32,
    },
    /// The root directory of the process cannot be opened.
    #[error("the root directory of its process {process} cannot be opened: {source}")]
    Root {
        /// The process.
        process: i32,
        /// Why.
        source: io::Error,
    },
    /// The root directory lies where no guest may.
    #[error(transparent)]
    Guest(#[from] GuestError),
}
