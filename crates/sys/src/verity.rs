//! fs-verity: the kernel keeps the content of a file as it is, for good.
//!
//! Once it is enabled, no process can open the file for writing, and the kernel checks every page that it reads from
//! the disk against a tree of hashes. It cannot be undone. See `Documentation/filesystems/fsverity.rst` in the kernel's
//! tree.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};

use super::fault::{self, Point};

const DIGEST_BYTES: u16 = 32;
const BLOCK_BYTES: u32 = 4096;

/// Bytes of a digest by SHA-256.
pub const DIGEST: usize = DIGEST_BYTES as usize;

/// Bytes of a block of the tree: every filesystem supports this size.
pub const BLOCK: usize = BLOCK_BYTES as usize;

/// `FS_VERITY_HASH_ALG_SHA256`.
pub const SHA256: u8 = 1;

/// Enables it, with SHA-256, blocks of [`BLOCK`] bytes and no salt. The kernel reads the whole file for it.
///
/// # Errors
/// `EEXIST` where it is enabled, `ETXTBSY` while somebody has the file open for writing, `EOPNOTSUPP` and
/// `ENOTTY` where filesystem or kernel have no fs-verity, and what the kernel's document lists.
pub fn enable(file: BorrowedFd<'_>) -> Result<(), Errno> {
    /// `_IOW('f', 133, struct fsverity_enable_arg)`.
    const FS_IOC_ENABLE_VERITY: Opcode = opcode::write::<Enable>(b'f', 133);
    let request = Enable {
        version: 1,
        hash_algorithm: u32::from(SHA256),
        block_size: BLOCK_BYTES,
        salt_size: 0,
        salt: 0,
        signature_size: 0,
        reserved1: 0,
        signature: 0,
        reserved2: [0; 11],
    };
    // SAFETY: FS_IOC_ENABLE_VERITY takes a pointer to a `struct fsverity_enable_arg`, which `Enable` is, field by
    // field.
    let call = unsafe { Setter::<FS_IOC_ENABLE_VERITY, Enable>::new(request) };
    // SAFETY: the kernel reads the request, and what its salt and signature point to: both have length 0.
    fault::at(Point::EnableVerity, || unsafe { ioctl(file, call) })
}

/// The digest of the file's tree as the kernel holds it; `None` where fs-verity is not enabled.
///
/// # Errors
/// What `ioctl(2)` lists; `EOVERFLOW` for another algorithm than SHA-256 with a longer digest.
pub fn measure(file: BorrowedFd<'_>) -> Result<Option<[u8; DIGEST]>, Errno> {
    /// `_IOWR('f', 134, struct fsverity_digest)`, whose size leaves the digest out.
    const FS_IOC_MEASURE_VERITY: Opcode = opcode::read_write::<[u16; 2]>(b'f', 134);
    let mut answer = Measure {
        algorithm: 0,
        size: DIGEST_BYTES,
        digest: [0; DIGEST],
    };
    // SAFETY: FS_IOC_MEASURE_VERITY takes a pointer to a `struct fsverity_digest`, which `Measure` is, field by field.
    let call = unsafe { Updater::<FS_IOC_MEASURE_VERITY, Measure>::new(&mut answer) };
    // SAFETY: the kernel writes the header and at most `size` bytes of digest: `size` is the length of the array
    // there, and the answer lives until the call returns.
    match unsafe { ioctl(file, call) } {
        Ok(()) => Ok(Some(answer.digest)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOTTY) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// `struct fsverity_enable_arg` (`linux/fsverity.h`).
#[repr(C)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt: u64,
    signature_size: u32,
    reserved1: u32,
    signature: u64,
    reserved2: [u64; 11],
}

/// `struct fsverity_digest` (`linux/fsverity.h`).
#[repr(C)]
struct Measure {
    algorithm: u16,
    size: u16,
    digest: [u8; DIGEST],
}

const _: () = assert!(size_of::<Enable>() == 128, "as in linux/fsverity.h");
