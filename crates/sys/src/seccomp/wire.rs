//! The kernel's structures of a notification, and their bytes (`linux/seccomp.h`).
//!
//! The bytes matter where another process reads from the listener and writes to it, as LXC's monitor does for its
//! proxy.

use rustix::io::Errno;

/// A call that waits (`struct seccomp_notif`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Notification {
    /// The kernel's id for it.
    pub id: u64,
    /// The calling thread, as numbered in this process's namespace.
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

    /// Reads one from the bytes that another process received from the kernel.
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

/// The answer to a call that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// The kernel runs the call, as if there were no filter.
    Continue,
    /// The call fails.
    Fail(Errno),
}

impl Response {
    /// Bytes of a `struct seccomp_notif_resp`.
    pub const SIZE: usize = size_of::<RawResponse>();

    /// The bytes with which another process answers the call `id`.
    #[must_use]
    pub fn to_bytes(self, id: u64) -> [u8; Self::SIZE] {
        let RawResponse {
            id,
            value,
            error,
            flags,
        } = RawResponse::new(id, self);
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&id.to_ne_bytes());
        bytes[8..16].copy_from_slice(&value.to_ne_bytes());
        bytes[16..20].copy_from_slice(&error.to_ne_bytes());
        bytes[20..].copy_from_slice(&flags.to_ne_bytes());
        bytes
    }
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
pub(super) struct RawResponse {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

impl RawResponse {
    pub(super) fn new(id: u64, response: Response) -> Self {
        /// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
        const CONTINUE: u32 = 1;
        let (error, flags) = match response {
            Response::Continue => (0, CONTINUE),
            Response::Fail(errno) => (-errno.raw_os_error(), 0),
        };
        Self {
            id,
            value: 0,
            error,
            flags,
        }
    }
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
pub(super) struct AddDescriptor {
    pub(super) id: u64,
    pub(super) flags: u32,
    pub(super) source: u32,
    pub(super) number: u32,
    pub(super) new_flags: u32,
}

const _: () = assert!(size_of::<Notification>() == 80, "as in linux/seccomp.h");
const _: () = assert!(size_of::<RawResponse>() == 24, "as in linux/seccomp.h");
const _: () = assert!(size_of::<AddDescriptor>() == 24, "as in linux/seccomp.h");

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::{Notification, Response};

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
        let gone = Response::Fail(Errno::NOSPC).to_bytes(7);
        assert_eq!(gone[..8], 7_u64.to_ne_bytes());
        assert_eq!(gone[16..20], (-28_i32).to_ne_bytes());
        assert_eq!(gone[20..], [0; 4]);
        assert_eq!(
            Response::Continue.to_bytes(7)[16..],
            [0, 0, 0, 0, 1, 0, 0, 0]
        );
    }
}
