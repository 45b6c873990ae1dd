//! How much of a file is in the page cache, without bringing any of it there.
//!
//! `cachestat(2)` answers in one call, since Linux 6.5. On older kernels, and in sandboxes that refuse it, `mincore(2)`
//! answers for a mapping that is never touched; it visits each page, and answers truly only to root and the owner.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use memmap2::MmapOptions;

/// The number of `cachestat`, the same on every architecture but Alpha; the `libc` crate has it for
/// some of them.
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of `linux/mman.h`. A length of 0 reaches to the end of the file.
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of `linux/mman.h`, in pages.
#[repr(C)]
#[derive(Default)]
struct Pages {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Bytes of the page cache that a file of `size` bytes has, in whole pages.
///
/// # Errors
/// What both calls say where neither can tell: the error of `mincore` or of the mapping it needs.
pub fn resident_bytes(file: BorrowedFd<'_>, size: u64) -> io::Result<u64> {
    by_cachestat(file).or_else(|_| by_mincore(file, size))
}

/// The size of a page, in bytes.
#[must_use]
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Asks `cachestat(2)`.
///
/// # Errors
/// `ENOSYS` before Linux 6.5, `EPERM` in some sandboxes, `EOPNOTSUPP` on hugetlbfs.
pub fn by_cachestat(file: BorrowedFd<'_>) -> io::Result<u64> {
    let range = Range {
        offset: 0,
        length: 0,
    };
    let mut pages = Pages::default();
    // SAFETY: `cachestat` reads a `struct cachestat_range` and writes a `struct cachestat`, which `Range` and `Pages`
    // are, field by field; both live until the call returns. The last argument, flags, must be 0.
    let answer = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            &raw const range,
            &raw mut pages,
            0,
        )
    };
    if answer == 0 {
        Ok(pages.cached * page_size())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks `mincore(2)`.
///
/// # Errors
/// What `mmap(2)` and `mincore(2)` list.
pub fn by_mincore(file: BorrowedFd<'_>, size: u64) -> io::Result<u64> {
    /// Mapped at once: a byte of answer for each page, so a quarter of a mebibyte.
    const WINDOW: u64 = 1 << 30;
    let page = page_size();
    let mut pages = 0;
    for offset in (0..size).step_by(usize::try_from(WINDOW).unwrap_or(usize::MAX)) {
        let length = usize::try_from(WINDOW.min(size - offset)).unwrap_or(usize::MAX);
        let mut options = MmapOptions::new();
        options.offset(offset).len(length);
        // SAFETY: `map` asks that the file does not change while the mapping's bytes are read. None is ever read: only
        // the mapping's addresses are used.
        let mapping = unsafe { options.map(file.as_raw_fd()) }?;
        let mut resident = vec![0_u8; length.div_ceil(usize::try_from(page).unwrap_or(4096))];
        // SAFETY: `mincore` asks for an address at the start of a page, which a mapping's is, and writes a byte for
        // each page of the range: the vector has as many. The mapping lives until the call returns.
        let answer = unsafe {
            libc::mincore(
                mapping.as_ptr().cast_mut().cast(),
                length,
                resident.as_mut_ptr(),
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
        // The lowest bit says whether the page is there; the others are reserved.
        pages += resident.iter().filter(|&&page| page & 1 == 1).count() as u64;
    }
    Ok(pages * page)
}
