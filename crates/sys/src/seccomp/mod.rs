//! System calls that wait for another process's word (`SECCOMP_RET_USER_NOTIF`).
//!
//! See `seccomp_unotify(2)` and `Documentation/userspace-api/seccomp_filter.rst` in the kernel's tree.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};
use rustix::system::uname;

use crate::resolve::path_of;

/// A call that waits (`struct seccomp_notif`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Notification {
    /// What names it to the kernel.
    pub id: u64,
    /// The thread, by the number that it has for this process.
    pub thread: u32,
    flags: u32,
    /// The call's number.
    pub number: i32,
    /// The architecture that the number is of (`AUDIT_ARCH_…`).
    pub architecture: u32,
    instruction_pointer: u64,
    /// The call's arguments.
    pub arguments: [u64; 6],
}

impl Notification {
    /// Bytes of a `struct seccomp_notif`.
    pub const SIZE: usize = size_of::<Self>();

    /// From the bytes that somebody else has received of the kernel.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (longs, _) = bytes.as_chunks::<8>();
        let (ints, _) = bytes.as_chunks::<4>();
        let long = |at: usize| u64::from_ne_bytes(longs[at]);
        let int = |at: usize| u32::from_ne_bytes(ints[at]);
        Self {
            id: long(0),
            thread: int(2),
            flags: int(3),
            number: int(4).cast_signed(),
            architecture: int(5),
            instruction_pointer: long(3),
            arguments: std::array::from_fn(|argument| long(4 + argument)),
        }
    }
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

impl Response {
    fn new(id: u64, verdict: Verdict) -> Self {
        /// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
        const CONTINUE: u32 = 1;
        let (error, flags) = match verdict {
            Verdict::Continue => (0, CONTINUE),
            Verdict::Fail(errno) => (-errno.raw_os_error(), 0),
        };
        Self {
            id,
            value: 0,
            error,
            flags,
        }
    }
}

#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    number: u32,
    new_flags: u32,
}

const _: () = assert!(size_of::<Notification>() == 80, "as in linux/seccomp.h");
const _: () = assert!(size_of::<Response>() == 24, "as in linux/seccomp.h");
const _: () = assert!(size_of::<AddDescriptor>() == 24, "as in linux/seccomp.h");

/// What becomes of a call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, as if nobody had been asked.
    Continue,
    /// It fails.
    Fail(Errno),
}

impl Verdict {
    /// Bytes of a `struct seccomp_notif_resp`.
    pub const SIZE: usize = size_of::<Response>();

    /// The bytes with which somebody else is to answer the call `id`.
    #[must_use]
    pub fn to_bytes(self, id: u64) -> [u8; Self::SIZE] {
        let Response {
            id,
            value,
            error,
            flags,
        } = Response::new(id, self);
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&id.to_ne_bytes());
        bytes[8..16].copy_from_slice(&value.to_ne_bytes());
        bytes[16..20].copy_from_slice(&error.to_ne_bytes());
        bytes[20..].copy_from_slice(&flags.to_ne_bytes());
        bytes
    }
}

/// The descriptor on which calls of a filter arrive.
#[derive(Debug)]
pub struct Listener {
    descriptor: OwnedFd,
    /// Whether who waits for a call hears that none can come any more. Before, he would wait for ever.
    tells_its_end: bool,
}

impl From<OwnedFd> for Listener {
    fn from(descriptor: OwnedFd) -> Self {
        Self {
            descriptor,
            tells_its_end: is_at_least(uname().release().to_bytes(), TELLS_ITS_END),
        }
    }
}

/// Takes over the listener that a C library made in this process and gave away as a number.
///
/// A process does so once: libseccomp asks the kernel for one listener, and gives its number to everybody who
/// asks later.
///
/// # Errors
/// `EALREADY` the second time; `EBADF` or `EINVAL` for the number of anything else.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    static IS_ADOPTED: AtomicBool = AtomicBool::new(false);
    /// `_IOW('!', 2, __u64)`.
    const ID_VALID: Opcode = opcode::write::<u64>(b'!', 2);
    if IS_ADOPTED.swap(true, Ordering::Relaxed) {
        return Err(Errno::ALREADY.into());
    }
    // SAFETY: the descriptor is looked at and given back before this returns; a number of none is an error of the
    // call below, except -1, which may not be borrowed.
    let borrowed = (number != -1).then(|| unsafe { BorrowedFd::borrow_raw(number) });
    let borrowed = borrowed.ok_or(Errno::BADF)?;
    // SAFETY: the opcode takes a pointer to 64 bits, which `Setter` gives it.
    let call = unsafe { Setter::<ID_VALID, u64>::new(0) };
    // SAFETY: a listener compares the number with those of its calls and answers ENOENT; nothing else knows it.
    match unsafe { ioctl(borrowed, call) } {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::BADF) => return Err(Errno::BADF.into()),
        Err(_) => return Err(Errno::INVAL.into()),
    }
    // SAFETY: the library that made it gives it away, and nobody has taken it before, which is seen above.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The first release of Linux whose `SECCOMP_IOCTL_NOTIF_RECV` ends, with `ENOENT`, once no process has the
/// filter any more (`recv_wait_event`, kernel/seccomp.c).
const TELLS_ITS_END: (u32, u32) = (6, 11);

const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Whether a kernel's release (`6.12.48+deb13-amd64`) is this one or a later one.
fn is_at_least(release: &[u8], least: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|byte| !byte.is_ascii_digit())
        .map(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let mut next = || numbers.next().flatten();
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) >= least)
}

impl Listener {
    /// Whether a descriptor that somebody sent is one. Everything else would be polled in vain.
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
        // SAFETY: an opcode that takes an integer and follows no pointer.
        let call = unsafe { IntegerSetter::<SET_FLAGS>::new_usize(1) };
        // SAFETY: see above; older kernels refuse it with an error.
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
            // It costs a fifth of all that an answer takes, and only old kernels need it.
            if !self.tells_its_end && self.is_over(None)? {
                return Ok(None);
            }
            // It must come as zeros.
            let mut notification = Notification::default();
            // SAFETY: the opcode takes a `struct seccomp_notif`, which `Notification` is, field by field.
            let call = unsafe { Updater::<RECV, Notification>::new(&mut notification) };
            // SAFETY: the kernel fills the structure and nothing else.
            match unsafe { ioctl(&self.descriptor, call) } {
                Ok(()) => return Ok(Some(notification)),
                Err(Errno::NOENT) if self.tells_its_end && self.is_over(Some(&NOW))? => {
                    return Ok(None);
                }
                // Its caller was killed, or a signal came.
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

    /// Whether there is a call to be received, or comes within `limit`.
    #[must_use]
    pub fn has_call(&self, limit: &Timespec) -> bool {
        let mut waited = [PollFd::new(&self.descriptor, PollFlags::IN)];
        poll(&mut waited, Some(limit)).is_ok() && waited[0].revents().contains(PollFlags::IN)
    }

    /// Waits, at most for `limit`, until there is a call or can be none any more, and says whether the latter is so.
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

    /// Whether the call still waits: what was read of its process since it came is its own then, and
    /// not that of a later process with the same number.
    #[must_use]
    pub fn still_waits(&self, notification: &Notification) -> bool {
        /// `_IOW('!', 2, __u64)`.
        const ID_VALID: Opcode = opcode::write::<u64>(b'!', 2);
        // SAFETY: the opcode takes a pointer to a `__u64`.
        let call = unsafe { Setter::<ID_VALID, u64>::new(notification.id) };
        // SAFETY: the kernel reads the number and nothing else.
        unsafe { ioctl(&self.descriptor, call) }.is_ok()
    }

    /// Says what becomes of a call. That its caller is gone meanwhile is no error, nor that it was answered
    /// before: the first answer holds.
    ///
    /// # Errors
    /// What `ioctl(2)` lists.
    pub fn answer(&self, notification: &Notification, verdict: Verdict) -> Result<(), Errno> {
        /// `_IOWR('!', 1, struct seccomp_notif_resp)`.
        const SEND: Opcode = opcode::read_write::<Response>(b'!', 1);
        let mut response = Response::new(notification.id, verdict);
        // SAFETY: the opcode takes a `struct seccomp_notif_resp`, which `Response` is, field by field.
        let call = unsafe { Updater::<SEND, Response>::new(&mut response) };
        // SAFETY: the kernel reads the structure and nothing else.
        match unsafe { ioctl(&self.descriptor, call) } {
            Ok(()) | Err(Errno::NOENT | Errno::INPROGRESS) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Puts `file` in the place of the descriptor `number` of the caller.
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
        // SAFETY: the opcode takes a `struct seccomp_notif_addfd`, which this is, field by field.
        let call = unsafe { Setter::<ADDFD, AddDescriptor>::new(request) };
        // SAFETY: the kernel reads the structure; the descriptor that it names is open for the call.
        unsafe { ioctl(&self.descriptor, call) }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{Notification, TELLS_ITS_END, Verdict, is_at_least};

    #[test]
    fn bytes_are_those_of_the_kernels_structures() {
        let mut bytes = [0; Notification::SIZE];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::try_from(at).unwrap();
        }
        let of = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let read = Notification::from_bytes(&bytes);
        // SAFETY: a structure of integers without padding has no bytes that are not initialised.
        let same: [u8; Notification::SIZE] = unsafe { std::mem::transmute(read) };
        assert_eq!(same, bytes);
        assert_eq!((read.id, read.arguments[5]), (of(0), of(72)));
        let gone = Verdict::Fail(Errno::NOSPC).to_bytes(7);
        assert_eq!(gone[..8], 7_u64.to_ne_bytes());
        assert_eq!(gone[16..20], (-28_i32).to_ne_bytes());
        assert_eq!(gone[20..], [0; 4]);
        assert_eq!(
            Verdict::Continue.to_bytes(7)[16..],
            [0, 0, 0, 0, 1, 0, 0, 0]
        );
    }

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
                is_at_least(release.as_bytes(), TELLS_ITS_END),
                is_it,
                "{release}"
            );
        }
    }
}
