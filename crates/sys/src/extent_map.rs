//! Where a file's bytes lie on its disk (`FS_IOC_FIEMAP`): enough to see whether two files share extents.
//!
//! See `Documentation/filesystems/fiemap.rst` of the kernel.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::fault::{self, Point};

/// Extents of one call.
const AT_ONCE: u32 = 64;

const ROOM: usize = AT_ONCE as usize;

/// `FIEMAP_FLAG_SYNC`: the kernel writes dirty pages first, which have no blocks yet.
const SYNC: u32 = 0x1;

/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 0x1;

/// `FIEMAP_EXTENT_ENCODED`: compressed, or encrypted.
const ENCODED: u32 = 0x8;

/// `FIEMAP_EXTENT_UNKNOWN`, `_DELALLOC`, `_NOT_ALIGNED`, `_DATA_INLINE` and `_DATA_TAIL`: bytes without blocks of
/// their own, among the filesystem's metadata or not allocated yet.
const WITHOUT_BLOCKS: u32 = 0x2 | 0x4 | 0x100 | 0x200 | 0x400;

/// Bytes that follow one another in the file and on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where they begin in the file.
    pub offset: u64,
    /// Where they begin on the disk; only good for comparing. For a compressed extent the filesystem reports its
    /// beginning on the disk and its length before compression, so that two of them could seem to overlap: they get
    /// addresses of their own, far enough from one another.
    pub address: u64,
    /// How many bytes.
    pub length: u64,
}

/// All extents of a file up to some length, as few as can be, in the order of the file. Holes are
/// left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtentMap(Vec<Extent>);

impl ExtentMap {
    /// The extents of the first `length` bytes of an open file; `None` where some of them have no blocks of their own
    /// (Btrfs keeps small files among its metadata).
    ///
    /// # Errors
    /// What `ioctl(2)` lists; `EOPNOTSUPP` where the filesystem does not support it.
    pub fn of(file: BorrowedFd<'_>, length: u64) -> Result<Option<Self>, Errno> {
        let mut map = Self::default();
        let mut offset = 0;
        while offset < length {
            let mut request = Request {
                start: offset,
                length: length - offset,
                flags: SYNC,
                mapped: 0,
                room: AT_ONCE,
                reserved: 0,
                extents: [RawExtent::default(); ROOM],
            };
            fault::at(Point::MapExtents, || fiemap(file, &mut request))?;
            let answered = &request.extents[..ROOM.min(request.mapped as usize)];
            for extent in answered {
                if extent.flags & WITHOUT_BLOCKS != 0 {
                    return Ok(None);
                }
                map.push(extent.decode(), length);
            }
            match answered.last() {
                Some(last) if last.flags & LAST == 0 => offset = last.logical + last.length,
                _ => break,
            }
        }
        Ok(Some(map))
    }

    /// The extents.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.0
    }

    /// Where the first byte lies; `None` for a file of holes.
    #[must_use]
    pub fn first_address(&self) -> Option<u64> {
        self.0.first().map(|extent| extent.address)
    }

    /// Adds the next extent, cut off at the end of the file: blocks beyond it hold no content.
    fn push(&mut self, mut extent: Extent, end: u64) {
        extent.length = extent.length.min(end.saturating_sub(extent.offset));
        if extent.length == 0 {
            return;
        }
        // A filesystem reports one extent in two pieces where only one of them is shared.
        if let Some(last) = self.0.last_mut()
            && last.offset + last.length == extent.offset
            && last.address + last.length == extent.address
        {
            last.length += extent.length;
        } else {
            self.0.push(extent);
        }
    }
}

/// `struct fiemap_extent` (`linux/fiemap.h`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

impl RawExtent {
    fn decode(&self) -> Extent {
        /// No disk has addresses that large.
        const OF_COMPRESSED: u64 = 1 << 63;
        // Compressed extents begin at multiples of 4 KiB at least and hold 128 KiB at most
        // (BTRFS_MAX_UNCOMPRESSED, fs/btrfs/compression.h).
        let address = if self.flags & ENCODED == 0 {
            self.physical
        } else {
            OF_COMPRESSED | (self.physical >> 12 << 17)
        };
        Extent {
            offset: self.logical,
            address,
            length: self.length,
        }
    }
}

/// `struct fiemap` (`linux/fiemap.h`), with room for the answer.
#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
    extents: [RawExtent; ROOM],
}

fn fiemap(file: BorrowedFd<'_>, request: &mut Request) -> Result<(), Errno> {
    /// `_IOWR('f', 11, struct fiemap)`, whose size leaves the extents out.
    const FS_IOC_FIEMAP: Opcode = opcode::read_write::<[u64; 4]>(b'f', 11);
    // SAFETY: FS_IOC_FIEMAP takes a pointer to a `struct fiemap`, which `Request` is, field by field.
    let call = unsafe { Updater::<FS_IOC_FIEMAP, Request>::new(request) };
    // SAFETY: the kernel writes the header and at most `room` extents behind it: `room` is the length of the array
    // there, and the request lives until the call returns.
    unsafe { ioctl(file, call) }
}

#[cfg(test)]
mod tests {
    use super::{ENCODED, Extent, ExtentMap, RawExtent};

    fn extent(offset: u64, address: u64, length: u64) -> Extent {
        Extent {
            offset,
            address,
            length,
        }
    }

    #[test]
    fn pieces_that_follow_one_another_are_one_and_end_with_the_file() {
        let mut map = ExtentMap::default();
        for piece in [
            extent(0, 8192, 4096),
            extent(4096, 12_288, 4096),
            extent(8192, 4096, 4096),
            extent(16_384, 8192, 4096),
            extent(20_480, 12_288, 65_536),
        ] {
            map.push(piece, 24_576);
        }
        let wanted = [
            extent(0, 8192, 8192),
            extent(8192, 4096, 4096),
            extent(16_384, 8192, 8192),
        ];
        assert_eq!(map.extents(), wanted);
    }

    #[test]
    fn compressed_extents_that_are_neighbours_do_not_overlap() {
        let decoded = |physical| {
            let compressed = RawExtent {
                physical,
                length: 128 << 10,
                flags: ENCODED,
                ..RawExtent::default()
            };
            compressed.decode()
        };
        let (one, next) = (decoded(1 << 40), decoded((1 << 40) + 4096));
        assert!(one.address + one.length <= next.address);
    }
}
