//! The few raw calls that the rest of the house stands on, each in a file of its own.
//!
//! This is the only place where `unsafe` is allowed: [`lease`] calls `fcntl`, [`dedupe`],
//! [`extent_map`] and [`verity`] call `ioctl` with commands that no crate wraps, [`mapping`] maps a
//! file that a lease holds still, [`page_cache`] asks the kernel what it holds of a file,
//! [`loopback`] and [`mount_attributes`] make calls that no crate wraps either, and [`process`] does what
//! must be done between fork and exec or before a guest's process is made.
//! Everything else here is a thin, safe and *descriptor-relative* way to do one thing, so that no
//! caller is tempted to resolve a guest's path as a string.
#![allow(unsafe_code)]

pub mod call_error;
pub mod dedupe;
pub mod extent_map;
pub mod fault;
pub mod file_handle;
pub mod flags;
pub mod flush;
pub mod idmap;
pub mod lease;
pub mod loopback;
pub mod mapping;
pub mod mount_attributes;
pub mod overlap;
pub mod page_cache;
pub mod pidfd;
pub mod process;
pub mod procfs;
pub mod read_only;
pub mod resolve;
pub mod seccomp;
pub mod shown;
pub mod stamp;
pub mod tmpfile;
pub mod verity;
pub mod xattr;

use rustix::io::Errno;

/// Why the last raw call of this thread failed.
fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
