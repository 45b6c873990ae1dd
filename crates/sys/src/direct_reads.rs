//! Reads a file from the disk and not from the page cache (`O_DIRECT`).
//!
//! What the page cache holds proves nothing about the disk: it may have been written or read weeks ago, and pages that a
//! process has mapped stay there whatever `posix_fadvise(POSIX_FADV_DONTNEED)` asks for. Direct reads see the disk in any
//! case, and leave the pages that guests use where they are. See `open(2)`, `O_DIRECT`, and `statx(2)`,
//! `STATX_DIOALIGN`.

use std::os::fd::BorrowedFd;

use rustix::fs::{Advice, AtFlags, OFlags, StatxFlags};
use rustix::io::{Errno, Result};

/// What addresses, offsets and lengths of direct reads are a multiple of. No filesystem in use asks for more.
pub const ALIGNMENT: usize = 4096;

/// `STATX_DIOALIGN`, since Linux 6.1.
const DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);

/// A file whose reads go to the disk until this is dropped.
#[derive(Debug)]
pub struct DirectReads<'a> {
    file: BorrowedFd<'a>,
    before: OFlags,
}

impl<'a> DirectReads<'a> {
    /// Begins; `None` where this filesystem, or this file of it, has no direct reads of [`ALIGNMENT`].
    ///
    /// # Errors
    /// What `statx(2)` and `fcntl(2)` list.
    pub fn begin(file: BorrowedFd<'a>) -> Result<Option<Self>> {
        let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, DIOALIGN)?;
        let fits = |asked: u32| asked > 0 && ALIGNMENT.is_multiple_of(asked as usize);
        // Where nothing is told, it can be tried. A filesystem that would read through the page cache all the same (ext4
        // with data=journal, encrypted files) tells 0.
        let is_told = found.stx_mask & DIOALIGN.bits() != 0;
        if is_told && !(fits(found.stx_dio_mem_align) && fits(found.stx_dio_offset_align)) {
            return Ok(None);
        }
        let before = rustix::fs::fcntl_getfl(file)?;
        match rustix::fs::fcntl_setfl(file, before | OFlags::DIRECT) {
            Ok(()) => Ok(Some(Self { file, before })),
            Err(Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for DirectReads<'_> {
    fn drop(&mut self) {
        // The kernel refuses no flags that the file had already.
        let _ = rustix::fs::fcntl_setfl(self.file, self.before);
    }
}

/// Takes a file's pages out of the page cache, but for those that a process has mapped or that are not on the disk yet.
///
/// # Errors
/// What `posix_fadvise(2)` lists.
pub fn drop_cached(file: BorrowedFd<'_>) -> Result<()> {
    rustix::fs::fadvise(file, 0, None, Advice::DontNeed)
}
