//! Digests the content of leased files, and each content that comes several times in a row once.
//!
//! A run reads files with the same metadata one after the other, and most of them hold the same bytes.
//! So a [`Digester`] keeps the content that it digested last. A file that holds these very bytes has
//! that very digest, and comparing costs a fifth of digesting.

use std::os::fd::AsFd;

use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::direct_reads::{ALIGNMENT, DirectReads, drop_cached};
use vhashify_sys::fault::{self, Point};
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::mapping::LeasedMapping;

use super::Digest;

/// Files at least this large are mapped and digested piece by piece; smaller ones are read, and the
/// last one is kept.
const SMALLEST_MAPPED: u64 = 1 << 20;

/// Bytes that are mapped at once. Between two windows the reader looks for a lease break, so that a
/// writer waits for milliseconds; and a mapping counts as memory of this process.
const WINDOW: usize = 512 << 10;

/// Bytes that are read from the disk at once.
const DIRECT_CHUNK: usize = 1 << 20;

/// Bytes that are read at once: they stay in the processor's cache until they are looked at.
const CHUNK: usize = 256 << 10;

/// Why a file's content could not be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    /// A process waits to write to it.
    #[error("a process waits to write to it")]
    LeaseBroken,
    /// The file is shorter or longer than its inode said.
    #[error("it is shorter or longer than its inode said")]
    SizeChanged,
    /// A system call failed.
    #[error(transparent)]
    Call(#[from] FailedCall),
}

/// What one thread needs to digest files.
#[derive(Debug)]
pub struct Digester {
    chunk: Vec<u8>,
    /// As much for reads from the disk, and room to begin where they may; empty until there is one.
    direct_chunk: Vec<u8>,
    /// A content, if its digest is known.
    last: Vec<u8>,
    digest_of_last: Option<Digest>,
}

impl Default for Digester {
    fn default() -> Self {
        Self {
            chunk: vec![0; CHUNK],
            direct_chunk: Vec::new(),
            last: Vec::new(),
            digest_of_last: None,
        }
    }
}

impl Digester {
    /// Reads all of a leased file of `size` bytes and digests it. The digest is true as long as the
    /// lease of `file` is unbroken.
    ///
    /// # Errors
    /// [`ReadError`]; a broken lease ends the reading early.
    pub fn digest(&mut self, file: &LeasedFile, size: u64) -> Result<Digest, ReadError> {
        let mut reading = Reading::begin(file, size);
        match usize::try_from(size) {
            Ok(size) if (size as u64) < SMALLEST_MAPPED => self.small(&mut reading, size),
            _ => self.large(&mut reading),
        }
    }

    /// As [`digest`](Self::digest), but reads what is on the disk, and not what the page cache holds of it.
    ///
    /// Where there are no direct reads, this takes out of the page cache what can be, and reads as usual. Pages that a
    /// process has mapped are believed then.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn digest_from_disk(&mut self, file: &LeasedFile, size: u64) -> Result<Digest, ReadError> {
        let begun = DirectReads::begin(file.as_fd());
        if let Some(_direct) = begun.map_err(FailedCall::of("fcntl(F_SETFL)"))? {
            match self.unmapped(Reading::begin(file, size)) {
                // The disk asks for another alignment than it told.
                Err(ReadError::Call(failed)) if failed.errno == Errno::INVAL => {}
                done => return done,
            }
        }
        drop_cached(file.as_fd()).map_err(FailedCall::of("posix_fadvise"))?;
        self.unmapped(Reading::begin(file, size))
    }

    fn unmapped(&mut self, mut reading: Reading<'_>) -> Result<Digest, ReadError> {
        self.direct_chunk.resize(DIRECT_CHUNK + ALIGNMENT, 0);
        let start = self.direct_chunk.as_ptr().align_offset(ALIGNMENT);
        let chunk = &mut self.direct_chunk[start..][..DIRECT_CHUNK];
        let mut hasher = blake3::Hasher::new();
        while !reading.is_at_end {
            let count = reading.next(chunk)?;
            hasher.update(&chunk[..count]);
        }
        Ok(hasher.finalize().into())
    }

    fn small(&mut self, reading: &mut Reading<'_>, size: usize) -> Result<Digest, ReadError> {
        let digest_of_last = self.digest_of_last.take();
        if let Some(digest) = digest_of_last.filter(|_| self.last.len() == size)
            && self.holds_last(reading)?
        {
            self.digest_of_last = Some(digest);
            return Ok(digest);
        }
        // One byte more than there should be: the read has to find the end before it.
        self.last.resize(size + 1, 0);
        while !reading.is_at_end {
            let start = reading.position();
            reading.next(&mut self.last[start..])?;
        }
        self.last.truncate(size);
        let digest = blake3::hash(&self.last).into();
        self.digest_of_last = Some(digest);
        Ok(digest)
    }

    /// Reads on while the file holds what the last one did, and says whether it does to its end. Where
    /// it does not, what was read stands in `last`.
    fn holds_last(&mut self, reading: &mut Reading<'_>) -> Result<bool, ReadError> {
        while !reading.is_at_end {
            let start = reading.position();
            let count = reading.next(&mut self.chunk)?;
            let (last, chunk) = (&mut self.last[start..start + count], &self.chunk[..count]);
            if *last != *chunk {
                last.copy_from_slice(chunk);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn large(&mut self, reading: &mut Reading<'_>) -> Result<Digest, ReadError> {
        let mut hasher = blake3::Hasher::new();
        reading.mapped(&mut hasher)?;
        while !reading.is_at_end {
            let count = reading.next(&mut self.chunk)?;
            hasher.update(&self.chunk[..count]);
        }
        Ok(hasher.finalize().into())
    }
}

/// A file that is read from its beginning to its end.
struct Reading<'a> {
    file: &'a LeasedFile,
    /// What its inode says.
    size: u64,
    /// How far it was read.
    offset: u64,
    /// Whether it ends there.
    is_at_end: bool,
}

impl<'a> Reading<'a> {
    fn begin(file: &'a LeasedFile, size: u64) -> Self {
        Self {
            file,
            size,
            offset: 0,
            is_at_end: false,
        }
    }

    /// How far a file was read that fits into memory.
    fn position(&self) -> usize {
        usize::try_from(self.offset).unwrap_or(usize::MAX)
    }

    /// Reads the next bytes: how many.
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        // What is read at once needs no second look.
        if self.offset > 0 && !self.file.is_unbroken() {
            return Err(ReadError::LeaseBroken);
        }
        let count = loop {
            let read = || rustix::io::pread(self.file.as_fd(), &mut *buffer, self.offset);
            match fault::at(Point::Read, read) {
                Ok(count) => break count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ReadError::Call(FailedCall::of("pread")(errno))),
            }
        };
        self.offset += count as u64;
        self.is_at_end = count == 0 || self.offset >= self.size && count < buffer.len();
        if self.offset > self.size || self.is_at_end && self.offset < self.size {
            return Err(ReadError::SizeChanged);
        }
        Ok(count)
    }

    /// Digests through mappings, to the end of the file or to where the disk gives no answer. There
    /// `pread(2)` goes on, which fails with a reason, where touching the mapping would end the whole
    /// process with SIGBUS.
    fn mapped(&mut self, hasher: &mut blake3::Hasher) -> Result<(), ReadError> {
        while self.offset < self.size {
            if !self.file.is_unbroken() {
                return Err(ReadError::LeaseBroken);
            }
            let rest = self.size - self.offset;
            let length = usize::try_from(rest).map_or(WINDOW, |rest| rest.min(WINDOW));
            let map = || LeasedMapping::new(self.file, self.offset, length);
            match fault::at(Point::Read, map) {
                Ok(window) => hasher.update(&window),
                Err(_) => break,
            };
            self.offset += length as u64;
        }
        Ok(())
    }
}
