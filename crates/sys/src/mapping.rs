//! Maps a part of a file into memory while a lease keeps it from being changed.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};

use memmap2::{Advice, Mmap, MmapOptions};

use super::lease::LeasedFile;

/// Some bytes of a leased file, mapped; the lease outlives the mapping.
#[derive(Debug)]
pub struct LeasedMapping<'lease> {
    bytes: Mmap,
    _lease: &'lease LeasedFile,
}

impl<'lease> LeasedMapping<'lease> {
    /// Maps `length` bytes at `offset`, which must be a multiple of the page size, and brings them
    /// into memory, so that touching them cannot fail.
    ///
    /// # Errors
    /// What `mmap(2)` lists; `EFAULT` where the disk cannot be read; `EINVAL` on Linux before 5.14,
    /// which has no `MADV_POPULATE_READ`.
    pub fn new(file: &'lease LeasedFile, offset: u64, length: usize) -> io::Result<Self> {
        let descriptor = file.as_fd().as_raw_fd();
        let mut options = MmapOptions::new();
        options.offset(offset).len(length);
        // SAFETY: `map` asks that the file is neither truncated nor written while it is mapped. The read lease of
        // `file` makes every writer and every truncation wait until it is given back, and the borrow keeps it from
        // being given back before the mapping ends. (The kernel ends it after lease-break-time; callers map for far
        // less than that.)
        let bytes = unsafe { options.map(descriptor) }?;
        bytes.advise(Advice::PopulateRead)?;
        Ok(Self {
            bytes,
            _lease: file,
        })
    }
}

impl Deref for LeasedMapping<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
