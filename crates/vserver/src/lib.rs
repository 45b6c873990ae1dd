//! vserver: builds, starts, watches, enters and stops the guests of one host.
//!
//! | room | what it is for |
//! | --- | --- |
//! | [`context`] | what isolates a running guest: specification, calls, cgroup, limits |
//! | [`network`] | its addresses, over a pair of virtual devices |
//! | [`lifecycle`] | build, start, watch, enter and stop a guest |
//! | [`cli`] | arguments and what is done for them |
//!
//! Guests are those of util-vserver's configuration tree ([`vhashify_config`]). Their files are shared by
//! [`vhashify`], which also breaks links for a guest that runs ([`vhashify::broker`]).
#![forbid(unsafe_code)]

pub mod cli;
pub mod context;
pub mod lifecycle;
pub mod network;
