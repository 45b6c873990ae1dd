//! The system calls that the rest of the house stands on: a file for each family of calls, and the only `unsafe`.
//!
//! A guest's administrator changes the guest's tree while it is read. So what is done to a guest's file is done
//! relative to a descriptor: no caller resolves a path of a guest as a string.
//!
//! | file | what | calls |
//! | --- | --- | --- |
//! | **files** | | |
//! | [`resolve`] | opens names below a directory and nowhere else; finds what another process sees | `openat2` |
//! | [`file_handle`] | the same inode through another mount | `open_by_handle_at` |
//! | [`tmpfile`] | files without a name | `O_TMPFILE` |
//! | [`stamp`] | size, times, mode and owner of an inode | `statx`, `futimens` |
//! | [`flags`] | inode flags; the mark of iunlink | `FS_IOC_SETFLAGS` |
//! | [`xattr`] | extended attributes | `fgetxattr` |
//! | **content** | | |
//! | [`lease`] | proof that no process writes to a file | `F_SETLEASE` |
//! | [`mapping`] | maps a file while it is leased | `mmap` |
//! | [`flush`] | writes a file's pages without a commit of the journal | `sync_file_range` |
//! | [`dedupe`] | lets files share extents | `FIDEDUPERANGE` |
//! | [`placement`] | project ids, and hints of where data are to lie | `FS_IOC_FSGETXATTR` |
//! | [`extent_map`], [`overlap`] | where a file lies on the disk; who holds which part of it | `FS_IOC_FIEMAP` |
//! | [`direct_reads`] | reads past the page cache | `fcntl(F_SETFL)` |
//! | [`page_cache`] | how much of a file is in memory | `cachestat`, `mincore` |
//! | [`verity`] | fs-verity | `FS_IOC_ENABLE_VERITY` |
//! | **mounts and networks** | | |
//! | [`mount_attributes`] | attributes of a mount that has no point yet | `mount_setattr` |
//! | [`directory`] | whether names in a directory can be replaced | `statx` |
//! | [`filesystem_kind`] | which kind of filesystem a file lies on | `fstatfs` |
//! | [`idmap`], [`read_only`] | mounts with other owners' numbers; of one file, read-only | `open_tree`, `move_mount` |
//! | [`loop_device`] | the file below a loop device | `LOOP_GET_STATUS64` |
//! | [`loopback`] | brings up a loopback device | `SIOCSIFFLAGS` |
//! | **processes** | | |
//! | [`process`] | signals, sessions, priorities, descriptors; another one's memory | `pthread_sigmask`, … |
//! | [`pidfd`] | a process by a name that no later one can have | `pidfd_open` |
//! | [`procfs`] | every file of `/proc` that the house reads | |
//! | [`seccomp`] | answers system calls of other processes | `SECCOMP_IOCTL_NOTIF_…` |
//! | **errors and tests** | | |
//! | [`call_error`] | a call that failed, and what the user can do | |
//! | [`shown`] | any bytes on one printable line | |
//! | [`fault`] | points at which a test makes a call fail | |
#![allow(unsafe_code)]

pub mod call_error;
pub mod dedupe;
pub mod direct_reads;
pub mod directory;
pub mod extent_map;
pub mod fault;
pub mod file_handle;
pub mod filesystem_kind;
pub mod flags;
pub mod flush;
pub mod idmap;
pub mod inode_requests;
pub mod lease;
pub mod loop_device;
pub mod loopback;
pub mod mapping;
pub mod mount_attributes;
pub mod overlap;
pub mod page_cache;
pub mod pidfd;
pub mod placement;
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

/// The error of this thread's last call of the C library.
fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
