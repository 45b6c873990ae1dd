//! `vserver` as an administrator uses it: real Debian guests, real processes, the kernel's own words.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`host`] | a configuration tree, guests and their state in one directory; all gone afterwards |
//! | [`life`] | start, watch, stop; and that nothing is left |
//! | [`inside`] | exec, suexec, enter |
//! | [`many`] | vserver-stat, vps, vkill, start-vservers |
//! | [`build`] | each method of building, and deleting |
//! | [`refusals`] | bad input: one clear line, the right status, no half-started guest |
//! | [`copy_on_write`] | guests that share everything and write to it |
//! | [`escape`] | what a guest's root tries, each with the defence that stops it |
//! | [`network`] | addresses, and a web server that answers |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod build;
mod copy_on_write;
mod escape;
mod host;
mod inside;
mod life;
mod many;
mod network;
mod refusals;
