//! The guard: BPF programs on LSM hooks that refuse every change of a marked file, even to root of the host.
//!
//! ```text
//! /sys/fs/bpf/vhashify/     0700; a pin outlives the process that made it
//!     filesystems           where the guard enforces marks (device number of the superblock)
//!     permitted             processes of the host that may lock and mark objects
//!     displaced             inodes whose names were just exchanged, until they are gone
//!     links_made            how many names each guest (pid namespace) gave an object
//!     version               the version of the guard
//!     counters              refusals, by hook and processor
//!     refusals, refused     the last 64 refusals, and how many there were
//!     hook-NAME             one for each hook that is attached
//! ```
//!
//! # What it promises
//! On a registered filesystem no process, not even root of the host, can open a marked regular file for
//! writing, truncate it, change its mode, owner, times, extended attributes, ACLs or flags (the
//! mark among them), give it hints or delegations, lock it, or watch it by `inotify(7)` or `fanotify(7)`. All other
//! ways to write need a descriptor that is open for writing: `fallocate`, shared mappings, `FICLONERANGE`,
//! `copy_file_range`, `io_uring`, swap files and loop devices. Every process may remove, rename and add names, but the
//! processes of a pid namespace may add only 1,000 to each object, so that no guest uses up the links that an inode can
//! have. A process of `vhashify` that holds a [`Permit`] may lock objects and set their flags, but not write. A refused
//! attempt has no effect: the kernel calls the hook before it breaks leases or counts the writer, so a guest that tries
//! again and again cannot make an object look busy to a command that gives another guest its own copy.
//!
//! Before a command shares anything on a filesystem, it tests every kind of change there on a marked file
//! (`self_test`): if a kernel lacks a hook, has renamed it or calls it elsewhere, no change may go through unseen.
//!
//! # What it costs
//! The kernel calls the hook `inode_permission` for every component of every path. In an emulated machine this makes
//! each lookup of every process take about half as long again; the cost of the other hooks cannot be measured
//! (`make bench-vm`). Without this hook a guest could keep others from running a shared program: see `guard.bpf.c`.
//!
//! # What it does not cover
//! - Descriptors that a process opened for writing before the guard was loaded: load it before any guest starts.
//!   `vhashify` itself marks no file that a process can still write to.
//! - Privileges that no guest should have: the disk as a device node, the host's `bpffs`, `CAP_BPF` or `CAP_SYS_ADMIN`
//!   in the host's user namespace (`quotaon` onto a marked file, XFS's requests by file handle, loading other
//!   programs), descriptors of the host's processes.
//! - A Btrfs filesystem that was mounted anew: it has a new device number, and must be registered again. Each run and
//!   `guard load` do that.
//! - Watches of whole directories, mounts and filesystems: a guest that may set one sees events in its own files.
//! - Commands that began before the guard was loaded: they have no permit, get no leases on objects, and report each
//!   such file as failed.

mod displaced;
mod error;
mod filesystem;
mod hook;
mod load;
mod permit;
mod pins;
mod refusal;
mod running;
mod self_test;
mod status;

pub use displaced::{Displaced, let_in};
pub use error::GuardError;
pub use load::{check_active, guards, load, register, unload};
pub use permit::Permit;
pub use refusal::Refusal;
pub use status::{Filesystem, HookStatus, Status, status};
