//! `vserver` as an administrator uses it: real Debian guests, real processes, the kernel's own words.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`host`] | a configuration tree, guests and their state in one directory; all gone afterwards |
//! | [`life`] | start, watch, stop; and that nothing is left |
//! | [`inside`] | exec, suexec, enter |
//! | [`many`] | vserver-stat, vps, vkill, start-vservers |
//! | [`boot`] | guests whose own init boots them |
//! | [`build`] | each method of building, and deleting |
//! | [`refusals`] | bad input: one clear line, the right status, no half-started guest |
//! | [`escape`] | what a guest's root tries, each with the defence that stops it |
//! | [`users`] | guests whose users are no users of the host |
//! | [`network`] | addresses, and a web server that answers |
//! | [`together`] | the README's third example, and `vhashify` beside guests that write |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod boot;
mod build;
mod escape;
mod host;
mod inside;
mod life;
mod many;
mod network;
mod refusals;
mod together;
mod users;
