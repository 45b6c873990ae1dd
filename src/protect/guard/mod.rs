//! The guard: BPF programs on LSM hooks that refuse every change of a marked file, to root of the host, too.
//!
//! ```text
//! /sys/fs/bpf/vhashify/     0700; what is pinned here outlives the process that loaded it
//!     filesystems           where marks count (device number, as the superblock has it)
//!     permitted             processes of the host that may lock and mark objects
//!     displaced             inodes whose names were just exchanged, until they are gone
//!     links_made            how many names each guest (pid namespace) gave an object
//!     version               which guard this is
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
//! `copy_file_range`, `io_uring`, swap files and loop devices. Every process may remove, rename and add names: one
//! pid namespace 1,000 of each object, so that no guest uses up the links that the inode can have. A process of
//! `vhashify` that holds a [`Permit`] may lock objects and set their flags, but not write. A refused attempt has no
//! effect: the hook comes before the kernel breaks leases or counts the writer, so a guest that tries again and again
//! cannot make an object look busy to a command that gives another guest its own copy.
//!
//! Before a command shares anything on a filesystem, it tries every kind of change there on a marked file
//! (`self_test`): a hook that a kernel lacks, renamed or asks elsewhere must never let its changes through.
//!
//! # What it costs
//! The kernel calls the hook `inode_permission` for every component of every path. In an emulated machine this makes
//! each lookup about half as dear again, for all processes; the other hooks cost nothing that can be measured
//! (`make bench-vm`). Without this hook a guest could keep others from running a program that they share: see
//! `guard.bpf.c`.
//!
//! # What it does not cover
//! - Descriptors that were open for writing before the guard was loaded: load it before any guest
//!   starts. `vhashify` itself marks nothing that somebody can still write to.
//! - What guests must not be given: the disk as a device node, the host's `bpffs`, `CAP_BPF` or
//!   `CAP_SYS_ADMIN` in the host's own user namespace (`quotaon` onto a marked file, XFS's requests by
//!   file handle, loading other programs), descriptors of the host's processes.
//! - A filesystem that was mounted anew: Btrfs gets a new device number then, and has to be
//!   registered again, as each run and `guard load` do.
//! - Watches of whole directories, mounts and filesystems: a guest that may set one sees what happens in its own.
//! - A command that began before the guard was loaded has no permit: it gets no leases on objects,
//!   and names each such file as one that failed.

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

pub use error::GuardError;
pub use load::{check_active, guards, load, register, unload};
pub use permit::Permit;
pub use refusal::Refusal;
pub use status::{Filesystem, HookStatus, Status, status};
