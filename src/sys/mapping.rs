//! Maps a file into memory, only while a lease holds it still.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};

use memmap2::{Advice, Mmap};

use super::lease::LeasedFile;

/// The bytes of a leased file, mapped; the lease outlives the mapping.
#[derive(Debug)]
pub struct LeasedMapping<'lease> {
    bytes: Mmap,
    _lease: &'lease LeasedFile,
}

impl<'lease> LeasedMapping<'lease> {
    /// Maps the whole of `file`.
    ///
    /// # Errors
    /// What `mmap(2)` lists.
    pub fn new(file: &'lease LeasedFile) -> io::Result<Self> {
        let descriptor = file.as_fd().as_raw_fd();
        // SAFETY: memmap2 asks that the file is neither truncated nor written while it is mapped.
        // The read lease that `file` holds makes every writer and every truncation wait until it
        // is given back, and the borrow keeps it from being given back before the mapping ends.
        // (A writer is let through after lease-break-time; callers map for far less than that.)
        let bytes = unsafe { Mmap::map(descriptor) }?;
        Ok(Self {
            bytes,
            _lease: file,
        })
    }

    /// Brings `length` bytes at `offset` into memory, so that touching them cannot fail.
    ///
    /// # Errors
    /// `EFAULT` where the disk cannot be read; `EINVAL` on Linux before 5.14, which has no
    /// `MADV_POPULATE_READ`.
    pub fn populate(&self, offset: usize, length: usize) -> io::Result<()> {
        self.bytes
            .advise_range(Advice::PopulateRead, offset, length)
    }
}

impl Deref for LeasedMapping<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
