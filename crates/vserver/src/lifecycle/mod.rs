//! How a guest lives: build, start, watch, enter, stop, delete.
//!
//! ```text
//!   vserver NAME start                 vserver NAME exec, enter           vserver NAME stop
//!     │ settings, checks, context        │ (sealed) joins cgroup, namespaces│ cmd.stop
//!     ▼                                  │ takes the filter, drops          │ killseq, SIGKILL
//!   monitor (sealed) ─────── libcontainer│ capabilities, then forks         ▼
//!     │ own mounts, vdir nodev     │     ▼                            init ends
//!     ▼                            └─▶ init ◀─────────────────────────────┘
//!   monitor (watching) ◀── console, exit ┘
//!     removes cgroup, container, state; starts it again when it rebooted
//! ```
//!
//! A guest's state is a directory of its own, by default below `/run/vservers`, which the next boot
//! finds empty:
//!
//! ```text
//! NAME/lock              held by the command that starts or stops it
//! NAME/guest.json        there while it runs: see `state` and `observe`
//! NAME/last.json         how it ended last time
//! NAME/console.log, .1   what its init wrote
//! NAME/console           the pipe through which it does, or the mount point of its terminal
//! NAME/bundle/           its specification, and the mount point of its root
//! NAME/container/        libcontainer's state
//! NAME/broker            the socket that takes listeners, if it has a broker
//! ```
//!
//! No process of a guest ever meets one with the host's capabilities: init is made before the guest has
//! any process, and a command that enters later is confined before it is in the guest's PID namespace. The
//! program that both run is sealed ([`sealed`]), so that `/proc/self/exe` leads to nothing that can be written; and it
//! is executed anew with an empty environment, so that it holds nothing of whoever typed the command ([`inherited`]).
//!
//! Each file imports only from those above it:
//!
//! ```text
//! error, state                      what is on the disk, and the lock
//! order · tidy · sealed · console · inherited   what starter and monitor share
//! monitor · observe                 makes and watches a guest · how it is, and mending
//! stop · limits · enter · many      what is done with a guest that runs
//! start · build                     makes one
//! ```

pub mod broker;
pub mod build;
mod console;
pub mod distribution;
pub mod enter;
mod error;
mod hooks;
pub mod inherited;
mod init;
pub mod limits;
pub mod many;
pub mod monitor;
pub mod observe;
pub mod order;
mod process_attributes;
pub mod sealed;
pub mod start;
pub mod state;
pub mod stop;
mod terminal;
mod tidy;

pub use error::LifecycleError;
pub use observe::GuestState;
pub use state::StateDirectory;
pub use vhashify_config::running::{Ended, Running};
