//! `vserver broker` with the runtimes themselves: containers of crun, runc and LXC that share all their files
//! and write to them.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`place`] | a store, root directories that share everything, and a broker that runs |
//! | [`oci`] | crun and runc |
//! | [`lxc`] | LXC |
//! | [`sharing`] | what a container does to shared files, and what must come of it |
//! | [`messages`] | what no runtime sends |
//! | [`sockets`] | where the broker listens, and where it must not |
//!
//! Protection is `none`: what is shown is the broker's work.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod lxc;
mod messages;
mod oci;
mod place;
mod sharing;
mod sockets;
