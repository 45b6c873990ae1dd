//! A guest's life: build, start, watch, enter, stop, delete.
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
//! Each guest has a state directory, by default below `/run/vservers`, which a boot empties:
//!
//! ```text
//! NAME/lock              the command that starts or stops the guest holds it
//! NAME/guest.json        exists while the guest runs: see `state` and `observe`
//! NAME/last.json         how it ended last time
//! NAME/reboot.json       how often it rebooted itself, and who waits to start it again
//! NAME/console.log, .1   what its init wrote
//! NAME/monitor.log, .1   what its monitor and its broker had to say
//! NAME/console           the pipe that init writes to, or the mount point of its terminal
//! NAME/bundle/           its specification, and the mount point of its root
//! NAME/container/        libcontainer's state
//! NAME/broker            the socket that takes listeners, if it has a broker
//! ```
//!
//! No process of a guest ever sees a process with the host's capabilities: the monitor confines init before the guest
//! has any process, and a command that enters later confines itself before it joins the guest's PID namespace. Both
//! run a sealed program ([`sealed`]), so that a guest cannot write to it through `/proc/self/exe`. It is executed anew
//! with an empty environment, so that it inherits nothing from the caller ([`inherited`]). Process 1 is executed, too,
//! before `start` returns (`init`): the guest's own init, its start command, or a reaper that is a program of its own.
//!
//! Each file imports only from those above it:
//!
//! ```text
//! error, state                      errors; the state directory and its lock
//! order · tidy · sealed · bounded_log · console · inherited   shared by starter and monitor
//! exposure · chroot · reboot        shared by build and start · start and enter · monitor, start and stop
//! monitor · observe                 makes and watches a guest · tells its state and mends it
//! stop · limits · enter · many      act on a guest that runs
//! start · build                     start a guest · make a new one
//! ```

mod bounded_log;
pub mod broker;
pub mod build;
mod chroot;
mod console;
pub mod distribution;
pub mod enter;
mod error;
mod exposure;
mod hooks;
pub mod inherited;
mod init;
pub mod limits;
pub mod many;
pub mod monitor;
pub mod observe;
pub mod order;
mod process_attributes;
pub mod reboot;
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
