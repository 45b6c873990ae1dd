//! `vserver` as an administrator uses it: real Debian guests, real processes, the kernel's own words.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`host`] | a configuration tree, guests and their state in one directory; all gone afterwards |
//! | [`life`] | start, watch, stop; and that nothing is left |
//! | [`inside`] | exec, suexec, enter |
//! | [`monitor`] | what the monitor of a guest says, and where |
//! | [`inherited`] | what of whoever types a command could reach a guest |
//! | [`many`] | vserver-stat, vps, vkill, start-vservers |
//! | [`boot`] | guests whose own init boots them |
//! | [`build`] | each method of building, and deleting |
//! | [`distribution`] | packages and services, by the guest's own programs |
//! | [`guarded`] | guests whose shared files count on the guard |
//! | [`import`] | old-style configurations, read as data or refused by line |
//! | [`oci`] | guests of OCI images: layers, digests, hostile archives |
//! | [`reboots`] | guests that reboot themselves, again and again |
//! | [`refusals`] | bad input: one clear line, the right status, no half-started guest |
//! | [`copy_on_write`] | guests that share everything and write to it |
//! | [`limits`] | what a guest may use, from its start on and changed while it runs |
//! | [`escape`] | what a guest's root tries, each with the defence that stops it |
//! | [`exposed`] | which files of guests users of the host reach: none |
//! | [`security`] | that `docs/security.md` names a test in each row |
//! | [`users`] | guests whose users are no users of the host |
//! | [`network`] | addresses, and a web server that answers |
//! | [`together`] | the README's third example, and `vhashify` beside guests that write |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod boot;
mod build;
mod copy_on_write;
mod distribution;
mod escape;
mod exposed;
mod guarded;
mod host;
mod import;
mod inherited;
mod inside;
mod life;
mod limits;
mod many;
mod monitor;
mod network;
mod oci;
mod reboots;
mod refusals;
mod security;
mod together;
mod users;
