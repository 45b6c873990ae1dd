//! Why a message is refused. Each is one line.

use std::io;

use thiserror::Error;

use crate::guest::GuestError;

/// Why a message, or the process that it is about, is not served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unserved {
    /// It cannot be received.
    #[error("it cannot be received: {0}")]
    Receive(#[source] io::Error),
    /// It is longer than any runtime's.
    #[error("it is longer than {} KiB, or comes in too many pieces; name this socket in a container's configuration only", super::oci::LONGEST >> 10)]
    TooLong,
    /// The rest of it does not come.
    #[error("nothing more came for {} s; a runtime sends it whole", super::oci::PATIENCE.as_secs())]
    TooSlow,
    /// Its end is missing.
    #[error("it ended before it was whole; start the container again")]
    Broken,
    /// It is no `ContainerProcessState`.
    #[error(
        "it describes no process of a container (line {line}, column {column}); name this socket as listenerPath of an OCI runtime's configuration only"
    )]
    NotState {
        /// Where that shows.
        line: usize,
        /// Where in this line.
        column: usize,
    },
    /// Too many descriptors, or more than this process may have.
    #[error(
        "more descriptors came with it than can be taken; raise the limit of open files (LimitNOFILE=) if many containers are served"
    )]
    TooManyDescriptors,
    /// No descriptor is the listener.
    #[error(
        "no descriptor that came with it is a listener of seccomp; give a call of the container's filter the action SCMP_ACT_NOTIFY"
    )]
    NoListener,
    /// It is no message of LXC's monitor.
    #[error(
        "it is no call that LXC's monitor has received; name this socket as lxc.seccomp.notify.proxy only"
    )]
    NotProxied,
    /// A container of LXC does not come to load its filter.
    #[error(
        "the container that LXC's monitor {process} starts has loaded no filter with calls that wait in {} minutes; give it the profile that --print-profile=lxc prints", super::lxc_hook::PATIENCE.as_secs() / 60
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
    /// The process is another one.
    #[error(
        "its process {process} has no filter of system calls, so that it is another one; run the runtime and this program in one PID namespace"
    )]
    NoFilter {
        /// The process.
        process: i32,
    },
    /// Its root directory cannot be opened.
    #[error("the root directory of its process {process} cannot be opened: {source}")]
    Root {
        /// The process.
        process: i32,
        /// Why.
        source: io::Error,
    },
    /// It lies where no guest may.
    #[error(transparent)]
    Guest(#[from] GuestError),
}
