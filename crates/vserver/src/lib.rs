//! vserver: builds, starts, watches, enters and stops the guests of one host.
//!
//! ```text
//! cli         arguments, and one function for each command
//!  └ lifecycle    build, start, watch, enter and stop a guest
//!     ├ context      what isolates a running guest: specification, system calls, cgroup, limits
//!     └ network      its addresses, over a pair of virtual devices
//! ```
//!
//! [`cli`] calls [`lifecycle`], which calls [`context`] and [`network`]; never the other way.
//!
//! Guests are those of util-vserver's configuration tree ([`vhashify_config`]). [`vhashify`] shares their files,
//! and its [`broker`](vhashify::broker) breaks links for a guest that runs.
#![forbid(unsafe_code)]

pub mod cli;
pub mod context;
pub mod lifecycle;
pub mod network;
