//! What `/proc` says of processes and mounts: every file of it that the house reads is read here.
//!
//! | file | what |
//! | --- | --- |
//! | `fields` | `status` and `fdinfo/N`: lines of a name and a value |
//! | `lists` | processes, children, descriptors |
//! | `mounts` | `mountinfo` |
//! | `namespaces` | in which mount namespace a process is, and below which root directory |
//! | `own_numbers` | what `self` is for another thread |
//! | `records` | `stat`, `limits`, `cgroup`, the id of the boot |
//!
//! A guest's process is hostile: its name (`comm`) holds any bytes but NUL, and it exits while its files are read.
//! So no reader asks for UTF-8, and each error is one of a process that may just have gone ([`is_gone`]).
//!
//! The crate `procfs-core` parses what consists of numbers. Two files are parsed by hand: it fails for a whole
//! `status` or `mountinfo` where one name in it is not UTF-8, and decodes none of the escapes of `mountinfo`.
//! `process` is a number, of a thread too, or `self`.

mod fields;
mod lists;
mod mounts;
mod namespaces;
mod own_numbers;
mod records;

use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub use fields::{Fields, fdinfo, status};
pub use lists::{children, descriptors, processes};
pub use mounts::{Mount, first_mount, mounts, parse_mounts};
pub use namespaces::{Place, ProcessRoot, mount_namespace, root};
pub use own_numbers::{OwnNumbers, own_numbers};
pub use records::{Limit, LimitValue, Limits, Stat, boot_id, limits, own_cgroup, stat};

/// The path of `file` in the directory of a process.
#[must_use]
pub fn path(process: impl Display, file: &str) -> PathBuf {
    format!("/proc/{process}/{file}").into()
}

/// The path that leads to an open file of this process, and to nothing else, for calls that take paths only. It is
/// good while `file` is open.
#[must_use]
pub fn descriptor_path(file: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()).into()
}

/// Reads a file of a process that the kernel prints as a whole (`single_open`, `fs/seq_file.c`), as it does
/// `status`, `syscall`, `fdinfo/N` and others of one record. Bytes that are no UTF-8 are replaced.
///
/// By hand and not by `std::fs`, because the broker reads two of these for each call that it answers.
///
/// # Errors
/// What `open(2)` and `read(2)` list; [`is_gone`] recognises those of a process that has gone.
pub fn read(process: impl Display, file: &str) -> Result<String, Errno> {
    let path = format!("/proc/{process}/{file}");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // The kernel reports no size for it, and a short read has come to its end: to ask for either would double the
    // calls.
    let mut text = Vec::with_capacity(4096);
    loop {
        text.reserve(1);
        let room = text.capacity() - text.len();
        if rustix::io::read(&file, spare_capacity(&mut text))? < room {
            break;
        }
    }
    Ok(String::from_utf8(text)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// Whether an error of a file in a process's directory says that there is no such process any more.
#[must_use]
pub fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::SRCH)
}
