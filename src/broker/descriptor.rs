//! Replaces a caller's descriptors of the object by descriptors of the private copy.
//!
//! A descriptor that was opened for reading leads to the object for as long as it is open. Before a call
//! changes the file through it (`fchmod`, `futimens`) or locks it, the broker replaces it by one of the copy with the
//! same number, flags and position; and so the caller's other descriptors of the same open file.
//!
//! A lock belongs to the open file, which other processes may have, too: a shell opens it, say, and runs
//! `flock 9`. The broker cannot replace descriptors of processes that do not wait, and the lock would end with the
//! caller. So it refuses such a lock with `ENOLCK`, as the guard does: a lock that does not hold is worse than none.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;
use vhashify_sys::process::is_one_open_file;
use vhashify_sys::procfs::{self, Fields};
use vhashify_sys::stamp::Stamp;
use vhashify_sys::{file_handle, tmpfile};

use super::caller::Caller;
use super::permission;

/// Flags of the old open file that the new one gets.
const KEPT: OFlags = OFlags::APPEND
    .union(OFlags::NONBLOCK)
    .union(OFlags::DIRECT)
    .union(OFlags::NOATIME)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC);

/// Replaces the caller's descriptor `number` of `object`, whose inode number is `inode`, and its others of
/// the same open file, by one of `private`. `object` is open through the caller's mount. The new descriptor is, too: it
/// shows the same owners, and nothing of the host's mounts.
///
/// # Errors
/// `EPERM` for a descriptor that could write to the object, and for one of `O_PATH` whose holder may not read the
/// file; else what the calls list.
pub fn replace(
    caller: &Caller<'_>,
    number: i32,
    object: BorrowedFd<'_>,
    inode: u64,
    private: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let number = u32::try_from(number).map_err(|_| Errno::BADF)?;
    let (flags, position) = open_file(caller, number).ok_or(Errno::BADF)?;
    let private = match file_handle::through(private, object, OFlags::RDONLY) {
        // The filesystem has no file handles, or none for a copy without a name.
        Err(Errno::OPNOTSUPP | Errno::STALE) => tmpfile::open_again(private, OFlags::RDONLY)?,
        opened => opened?,
    };
    let new = if flags.contains(OFlags::PATH) {
        // ADDFD refuses a descriptor that is open by O_PATH. One for reading is more: only a caller that may read the
        // file gets it.
        if !permission::may_read(caller, &Stamp::of(object)?) {
            return Err(Errno::PERM);
        }
        tmpfile::open_again(&private, OFlags::RDONLY)?
    } else {
        if flags.intersects(OFlags::WRONLY | OFlags::RDWR) {
            return Err(Errno::PERM);
        }
        let new = tmpfile::open_again(&private, OFlags::RDONLY | flags.intersection(KEPT))?;
        rustix::fs::seek(&new, SeekFrom::Start(position))?;
        new
    };
    let thread = caller.notification.thread;
    for other in descriptors_of(thread, inode) {
        if other == number || is_one_open_file((thread, number), (thread, other)) != Ok(true) {
            continue;
        }
        let Some((flags, _)) = open_file(caller, other) else {
            continue;
        };
        put(caller, other, &new, flags)?;
    }
    put(caller, number, &new, flags)
}

fn put(caller: &Caller<'_>, number: u32, new: &OwnedFd, flags: OFlags) -> Result<(), Errno> {
    let closes = flags.contains(OFlags::CLOEXEC);
    caller
        .listener
        .replace_descriptor(caller.notification, number, new.as_fd(), closes)
}

/// Whether another process of `processes` than the caller's has the open file of the caller's descriptor.
#[must_use]
pub fn is_held_elsewhere(
    caller: &Caller<'_>,
    number: i32,
    inode: u64,
    processes: impl IntoIterator<Item = i32>,
) -> bool {
    let (thread, Ok(number)) = (caller.notification.thread, u32::try_from(number)) else {
        return true;
    };
    let own: Option<u32> = caller.status().and_then(|status| status.number("Tgid"));
    processes
        .into_iter()
        .filter_map(|process| u32::try_from(process).ok())
        .filter(|process| Some(*process) != own)
        .any(|process| {
            descriptors_of(process, inode)
                .into_iter()
                .any(|other| is_one_open_file((thread, number), (process, other)) == Ok(true))
        })
}

/// Flags and position of an open file, from `/proc/PID/fdinfo`.
fn open_file(caller: &Caller<'_>, number: u32) -> Option<(OFlags, u64)> {
    flags_and_position(&caller.fdinfo(number)?)
}

fn flags_and_position(fdinfo: &Fields) -> Option<(OFlags, u64)> {
    let flags = u32::from_str_radix(fdinfo.get("flags")?, 8).ok()?;
    let position = fdinfo.number("pos")?;
    Some((OFlags::from_bits_retain(flags), position))
}

/// The descriptors of a process that lead to an inode of this number, on any filesystem.
fn descriptors_of(process: u32, inode: u64) -> Vec<u32> {
    let leads_there = |number: &u32| {
        let path = procfs::path(process, &format!("fd/{number}"));
        fs::metadata(path).is_ok_and(|found| found.ino() == inode)
    };
    let numbers = procfs::descriptors(process).unwrap_or_default().into_iter();
    numbers
        .filter_map(|number| u32::try_from(number).ok())
        .filter(leads_there)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Fields, flags_and_position};
    use rustix::fs::OFlags;

    #[test]
    fn flags_are_octal() {
        let of = |text: &str| flags_and_position(&Fields::from(text.to_owned()));
        let (flags, position) = of("pos:\t42\nflags:\t02104000\nmnt_id:\t25\nino:\t7\n").unwrap();
        assert_eq!(position, 42);
        assert!(flags.contains(OFlags::CLOEXEC | OFlags::NONBLOCK));
        assert!(!flags.intersects(OFlags::WRONLY | OFlags::RDWR));
        assert!(of("pos:\t1\n").is_none());
    }
}
