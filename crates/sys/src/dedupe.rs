//! Lets files share extents (`FIDEDUPERANGE`).
//!
//! The kernel locks both inodes, compares the bytes, and only if they are equal makes the destination refer to the
//! source's extents. A write to either file happens before or after that, and changes that file alone. Content, times
//! and all other metadata of both stay as they are. See `ioctl_fideduperange(2)`.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::fault::{self, Point};

/// Bytes of one call: older kernels take no more on Btrfs (`BTRFS_MAX_DEDUPE_LEN`), and a process that waits for one
/// of the files does not wait long.
pub const MOST_BYTES: u64 = 16 << 20;

/// Destinations of one call. The kernel takes what fits in a page, 127 of them.
pub const MOST_DESTINATIONS: usize = 64;

/// What became of one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has the extents of the source.
    Shared,
    /// Its bytes differ, and it is unchanged.
    Differs,
    /// It is unchanged for another reason.
    Failed(Errno),
}

/// Lets `length` bytes at `offset` of each of `destinations` share the extents of the same bytes of
/// `source`: at most [`MOST_BYTES`] and [`MOST_DESTINATIONS`]. A range that ends in the middle of a
/// block must be the end of the files.
///
/// With `CAP_SYS_ADMIN`, all of them may be open for reading only.
///
/// # Errors
/// What `ioctl_fideduperange(2)` lists for the source; no file was changed then.
pub fn share_extents(
    source: BorrowedFd<'_>,
    offset: u64,
    length: u64,
    destinations: &[BorrowedFd<'_>],
) -> Result<Vec<Outcome>, Errno> {
    let count = destinations.len().min(MOST_DESTINATIONS);
    let mut request = Request {
        source_offset: offset,
        source_length: length,
        count: u16::try_from(count).unwrap_or(0),
        reserved1: 0,
        reserved2: 0,
        destinations: [Destination::default(); MOST_DESTINATIONS],
    };
    for (asked, file) in request.destinations.iter_mut().zip(destinations) {
        asked.descriptor = i64::from(file.as_raw_fd());
        asked.offset = offset;
    }
    fault::at(Point::ShareExtents, || fideduperange(source, &mut request))?;
    let answers = &request.destinations[..count];
    Ok(answers.iter().map(Destination::outcome).collect())
}

/// `struct file_dedupe_range_info` (`linux/fs.h`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Destination {
    descriptor: i64,
    offset: u64,
    bytes_shared: u64,
    status: i32,
    reserved: u32,
}

impl Destination {
    fn outcome(&self) -> Outcome {
        /// `FILE_DEDUPE_RANGE_DIFFERS`.
        const DIFFERS: i32 = 1;
        match self.status {
            // The kernel stops between two destinations when this process is about to die.
            0 if self.bytes_shared == 0 => Outcome::Failed(Errno::INTR),
            0 => Outcome::Shared,
            DIFFERS => Outcome::Differs,
            error => Outcome::Failed(Errno::from_raw_os_error(error.saturating_neg())),
        }
    }
}

/// `struct file_dedupe_range` (`linux/fs.h`), with room for the most destinations.
#[repr(C)]
struct Request {
    source_offset: u64,
    source_length: u64,
    count: u16,
    reserved1: u16,
    reserved2: u32,
    destinations: [Destination; MOST_DESTINATIONS],
}

fn fideduperange(source: BorrowedFd<'_>, request: &mut Request) -> Result<(), Errno> {
    /// `_IOWR(0x94, 54, struct file_dedupe_range)`, whose size leaves the destinations out.
    const FIDEDUPERANGE: Opcode = opcode::read_write::<[u64; 3]>(0x94, 54);
    // SAFETY: FIDEDUPERANGE takes a pointer to a `struct file_dedupe_range`, which `Request` is, field by field.
    let call = unsafe { Updater::<FIDEDUPERANGE, Request>::new(request) };
    // SAFETY: the kernel reads and writes the header and the first `count` destinations: `count` is at most the length
    // of the array behind the header, and the request lives until the call returns.
    unsafe { ioctl(source, call) }
}
