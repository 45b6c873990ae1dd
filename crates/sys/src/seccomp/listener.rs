//! The listener of a filter: receives its calls and answers them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};
use rustix::system::uname;

use super::wire::{AddDescriptor, Notification, RawResponse, Response};
use crate::resolve::path_of;

/// `SECCOMP_IOCTL_NOTIF_ID_VALID`: `_IOW('!', 2, __u64)`.
pub(super) const ID_VALID: Opcode = opcode::write::<u64>(b'!', 2);

/// The first release of Linux whose `SECCOMP_IOCTL_NOTIF_RECV` returns `ENOENT` once no process has the filter any
/// more (`recv_wait_event`, kernel/seccomp.c).
const RECV_ENDS: (u32, u32) = (6, 11);

const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The descriptor on which the kernel hands out the calls of a filter.
#[derive(Debug)]
pub struct Listener {
    descriptor: OwnedFd,
    /// Whether RECV returns ENOENT when the last process with the filter exits (Linux 6.11); before, it blocks for
    /// ever.
    recv_ends: bool,
}

impl From<OwnedFd> for Listener {
    fn from(descriptor: OwnedFd) -> Self {
        Self {
            descriptor,
            recv_ends: is_at_least(uname().release().to_bytes(), RECV_ENDS),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Listener {
    /// Whether a descriptor that another process has sent is a listener.
    #[must_use]
    pub fn is_one(descriptor: BorrowedFd<'_>) -> bool {
        path_of(descriptor).is_ok_and(|what| what == b"anon_inode:seccomp notify")
    }

    /// Lets the thread that answers and the one that waits take turns on one processor, where the
    /// kernel can (6.6 and later); a hint.
    pub fn prefer_one_processor(&self) {
        /// `_IOW('!', 4, __u64)`.
        const SET_FLAGS: Opcode = opcode::write::<u64>(b'!', 4);
        // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP; the kernel takes the number itself as the argument.
        // SAFETY: SET_FLAGS takes an integer, not a pointer.
        let call = unsafe { IntegerSetter::<SET_FLAGS>::new_usize(1) };
        // SAFETY: so the call touches no memory of this process; older kernels refuse it with an error.
        let _ = unsafe { ioctl(&self.descriptor, call) };
    }

    /// Waits for the next call; `None` once no process has the filter any more.
    ///
    /// # Errors
    /// What `ioctl(2)` lists; a call that was given up meanwhile is no error.
    pub fn receive(&self) -> Result<Option<Notification>, Errno> {
        /// `_IOWR('!', 0, struct seccomp_notif)`.
        const RECV: Opcode = opcode::read_write::<Notification>(b'!', 0);
        loop {
            // This poll costs a fifth of what a whole answer costs, and only kernels before 6.11 need it.
            if !self.recv_ends && self.is_over(None)? {
                return Ok(None);
            }
            // The kernel refuses a structure that is not zeroed.
            let mut notification = Notification::default();
            // SAFETY: RECV takes a pointer to a `struct seccomp_notif`, which `Notification` is, field by field.
            let call = unsafe { Updater::<RECV, Notification>::new(&mut notification) };
            // SAFETY: the kernel writes the structure, which lives until the call returns, and nothing else.
            match unsafe { ioctl(&self.descriptor, call) } {
                Ok(()) => return Ok(Some(notification)),
                Err(Errno::NOENT) if self.recv_ends && self.is_over(Some(&NOW))? => {
                    return Ok(None);
                }
                // The caller was killed, or a signal interrupted this thread.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::NOTCONN) => return Ok(None),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Whether no process has the filter any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.is_over(Some(&NOW)).unwrap_or(true)
    }

    /// Whether a call waits, or arrives within `limit`.
    #[must_use]
    pub fn has_call(&self, limit: &Timespec) -> bool {
        let mut waited = [PollFd::new(&self.descriptor, PollFlags::IN)];
        poll(&mut waited, Some(limit)).is_ok() && waited[0].revents().contains(PollFlags::IN)
    }

    /// Waits, at most for `limit`, until a call arrives or the last process with the filter exits. True for the
    /// latter.
    fn is_over(&self, limit: Option<&Timespec>) -> Result<bool, Errno> {
        let mut waited = [PollFd::new(&self.descriptor, PollFlags::IN)];
        loop {
            match poll(&mut waited, limit) {
                Ok(_) => return Ok(waited[0].revents().contains(PollFlags::HUP)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Whether the call still waits. If it does, everything that was read from `/proc` since it arrived belongs to
    /// its caller, and not to a later process with the same number.
    #[must_use]
    pub fn still_waits(&self, notification: &Notification) -> bool {
        // SAFETY: ID_VALID takes a pointer to a `u64`, which `Setter` passes.
        let call = unsafe { Setter::<ID_VALID, u64>::new(notification.id) };
        // SAFETY: the kernel reads the `u64` and writes nothing.
        unsafe { ioctl(&self.descriptor, call) }.is_ok()
    }

    /// Answers a call. No error where its caller has gone meanwhile, or where it was answered before: the first
    /// answer holds.
    ///
    /// # Errors
    /// What `ioctl(2)` lists.
    pub fn answer(&self, notification: &Notification, response: Response) -> Result<(), Errno> {
        /// `_IOWR('!', 1, struct seccomp_notif_resp)`.
        const SEND: Opcode = opcode::read_write::<RawResponse>(b'!', 1);
        let mut raw = RawResponse::new(notification.id, response);
        // SAFETY: SEND takes a pointer to a `struct seccomp_notif_resp`, which `RawResponse` is, field by field.
        let call = unsafe { Updater::<SEND, RawResponse>::new(&mut raw) };
        // SAFETY: the kernel reads the structure, which lives until the call returns, and writes nothing.
        match unsafe { ioctl(&self.descriptor, call) } {
            Ok(()) | Err(Errno::NOENT | Errno::INPROGRESS) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Replaces the caller's descriptor `number` by `file`.
    ///
    /// # Errors
    /// `ENOENT` when the caller is gone, `EBADF` beyond its limit of descriptors.
    pub fn replace_descriptor(
        &self,
        notification: &Notification,
        number: u32,
        file: BorrowedFd<'_>,
        closes_on_exec: bool,
    ) -> Result<(), Errno> {
        /// `_IOW('!', 3, struct seccomp_notif_addfd)`.
        const ADDFD: Opcode = opcode::write::<AddDescriptor>(b'!', 3);
        /// `SECCOMP_ADDFD_FLAG_SETFD`.
        const SETFD: u32 = 1;
        let request = AddDescriptor {
            id: notification.id,
            flags: SETFD,
            source: u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?,
            number,
            new_flags: if closes_on_exec {
                rustix::fs::OFlags::CLOEXEC.bits()
            } else {
                0
            },
        };
        // SAFETY: ADDFD takes a pointer to a `struct seccomp_notif_addfd`, which `AddDescriptor` is, field by field.
        let call = unsafe { Setter::<ADDFD, AddDescriptor>::new(request) };
        // SAFETY: the kernel reads the structure and writes nothing; `file` keeps the descriptor in it open for the
        // whole call.
        unsafe { ioctl(&self.descriptor, call) }
    }
}

/// Whether a kernel's release (`6.12.48+deb13-amd64`) is this one or a later one.
fn is_at_least(release: &[u8], least: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|byte| !byte.is_ascii_digit())
        .map(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let mut next = || numbers.next().flatten();
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) >= least)
}

#[cfg(test)]
mod tests {
    use super::{RECV_ENDS, is_at_least};

    #[test]
    fn releases_are_told_apart_by_their_numbers() {
        for (release, is_it) in [
            ("6.1.0-37-amd64", false),
            ("6.10.11", false),
            ("6.11.0-rc1", true),
            ("6.12.48+deb13-amd64", true),
            ("7.0", true),
            ("6", false),
            ("six", false),
            ("", false),
        ] {
            assert_eq!(
                is_at_least(release.as_bytes(), RECV_ENDS),
                is_it,
                "{release}"
            );
        }
    }
}
