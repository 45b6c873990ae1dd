//! What makes two files the same: the digest of their content and the fingerprint of the metadata
//! that an inode carries.
//!
//! Two files of one [`Identity`] can share one inode and nobody can tell the difference, but for
//! inode number, link count and ctime. The digest is BLAKE3 of all bytes. The fingerprint is BLAKE3
//! (the first 16 bytes) of this record, integers little-endian:
//!
//! ```text
//! mode u32 │ owner u32 │ group u32 │ mtime seconds i64 │ nanoseconds u32 │ extended attributes …
//!                                    └─ absent with `--ignore-mtime` ──┘
//! one extended attribute, in the order of their names:
//! length of name u32 │ name │ length of value u32 │ value
//! ```
//!
//! ACLs, file capabilities and security labels are extended attributes (`xattr(7)`) and so are part
//! of it. Inode flags are not: a file with flags of its own is never unified ([`Flags::Unusual`]).
//!
//! [`Flags::Unusual`]: crate::sys::flags::Flags::Unusual

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use xattr::FileExt;

use crate::sys::fault::{self, Point};
use crate::sys::lease::LeasedFile;
use crate::sys::mapping::LeasedMapping;
use crate::sys::stamp::Stamp;

/// BLAKE3 of a file's content.
pub type Digest = [u8; 32];

/// The first half of BLAKE3 of a file's metadata.
pub type Fingerprint = [u8; 16];

/// Files at least this large are mapped; below it, `read` is quicker than building a mapping.
const SMALLEST_MAPPED: u64 = 1 << 20;

/// Bytes that are mapped at once. A lease break is looked for between two of them, so that a writer
/// waits for milliseconds; and what is mapped counts as memory of this process.
const WINDOW: usize = 512 << 10;

/// Whether mtime is part of the metadata that must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mtime {
    /// It must agree (invariant 2).
    Kept,
    /// `--ignore-mtime`: files that differ in nothing else become one, and all but one lose theirs.
    Ignored,
}

/// What makes two files the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// BLAKE3 of the content.
    pub digest: Digest,
    /// BLAKE3 of the metadata, shortened.
    pub fingerprint: Fingerprint,
    /// What the fingerprint covers.
    pub mtime: Mtime,
}

/// Why a file's content could not be read to its end.
#[derive(Debug)]
pub enum ReadFailure {
    /// Somebody waits to write to it.
    LeaseBroken,
    /// The file is shorter or longer than its inode said.
    SizeChanged,
    /// A system call failed.
    Call(&'static str, io::Error),
}

/// Reads all of a leased file of `size` bytes and digests it.
///
/// `buffer` is scratch space; its content is lost. The lease is what makes the digest true for as
/// long as `file` lives unbroken.
///
/// # Errors
/// [`ReadFailure`]; a broken lease ends the reading early.
pub fn digest(file: &LeasedFile, size: u64, buffer: &mut [u8]) -> Result<Digest, ReadFailure> {
    let mut hasher = blake3::Hasher::new();
    let mut offset = if size >= SMALLEST_MAPPED {
        digest_mapped(file, size, &mut hasher)?
    } else {
        0
    };
    // One read more than the size says: it has to find the end there.
    loop {
        // What is read at once needs no second look.
        if offset > 0 && !file.is_unbroken() {
            return Err(ReadFailure::LeaseBroken);
        }
        let read = || rustix::io::pread(file.as_fd(), &mut *buffer, offset);
        let count = match fault::at(Point::Read, read) {
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(ReadFailure::Call("pread", error.into())),
        };
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        offset += count as u64;
        if offset >= size && count < buffer.len() {
            break;
        }
    }
    if offset == size {
        Ok(hasher.finalize().into())
    } else {
        Err(ReadFailure::SizeChanged)
    }
}

/// Digests a file through mappings, and says how far it came: to the end, or to where the disk
/// gives no answer. There `pread(2)` goes on, which fails with a reason, where touching the mapping
/// would end the whole process with SIGBUS.
fn digest_mapped(
    file: &LeasedFile,
    size: u64,
    hasher: &mut blake3::Hasher,
) -> Result<u64, ReadFailure> {
    let mut offset = 0;
    while offset < size {
        if !file.is_unbroken() {
            return Err(ReadFailure::LeaseBroken);
        }
        let length = usize::try_from(size - offset).map_or(WINDOW, |rest| rest.min(WINDOW));
        match fault::at(Point::Read, || LeasedMapping::new(file, offset, length)) {
            Ok(window) => hasher.update(&window),
            Err(_) => break,
        };
        offset += length as u64;
    }
    Ok(offset)
}

/// Fingerprints the metadata of an open file whose inode is `stamp`.
///
/// # Errors
/// What `flistxattr(2)` and `fgetxattr(2)` list, with the name of the call.
pub fn fingerprint(
    file: BorrowedFd<'_>,
    stamp: &Stamp,
    mtime: Mtime,
) -> Result<Fingerprint, (&'static str, io::Error)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&u32::from(stamp.mode).to_le_bytes());
    hasher.update(&stamp.owner.to_le_bytes());
    hasher.update(&stamp.group.to_le_bytes());
    if mtime == Mtime::Kept {
        hasher.update(&stamp.mtime.seconds.to_le_bytes());
        hasher.update(&stamp.mtime.nanoseconds.to_le_bytes());
    }
    for (name, value) in extended_attributes(file)? {
        for part in [name.as_encoded_bytes(), &value] {
            // Names end at 255 bytes and values at 64 KiB (`xattr(7)`).
            hasher.update(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            hasher.update(part);
        }
    }
    let mut shortened = Fingerprint::default();
    hasher.finalize_xof().fill(&mut shortened);
    Ok(shortened)
}

/// Extended attributes as (name, value), sorted by name.
pub type ExtendedAttributes = Vec<(OsString, Vec<u8>)>;

/// The extended attributes of an open file.
///
/// # Errors
/// What `flistxattr(2)` and `fgetxattr(2)` list, with the name of the call.
pub fn extended_attributes(
    file: BorrowedFd<'_>,
) -> Result<ExtendedAttributes, (&'static str, io::Error)> {
    let file = Attributes(file);
    let names = match file.list_xattr() {
        Ok(names) => names,
        // A filesystem without extended attributes has files without them.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(("flistxattr", error)),
    };
    let mut attributes = Vec::new();
    for name in names {
        match file.get_xattr(&name) {
            Ok(Some(value)) => attributes.push((name, value)),
            // Removed since it was listed; whoever needs certainty looks again later.
            Ok(None) => {}
            Err(error) => return Err(("fgetxattr", error)),
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

/// Lends a borrowed descriptor the methods of the `xattr` crate.
struct Attributes<'file>(BorrowedFd<'file>);

impl std::os::fd::AsRawFd for Attributes<'_> {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.0)
    }
}

impl FileExt for Attributes<'_> {}
