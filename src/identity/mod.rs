//! What makes two files the same: the digest of their content and the fingerprint of the metadata
//! that an inode carries.
//!
//! Two files of one [`Identity`] can share one inode and nobody can tell the difference, but for
//! inode number, link count and ctime. The digest is BLAKE3 of all bytes. The fingerprint is BLAKE3
//! (the first 16 bytes) of this record, integers little-endian:
//!
//! ```text
//! mode u32 │ owner u32 │ group u32 │ mtime seconds i64 │ nanoseconds u32 │ extended attributes …
//! … │ placement                      └─ absent with `--ignore-mtime` ──┘
//!     └─ absent where all of it is 0
//! one extended attribute, in the order of their names:
//! length of name u32 │ name │ length of value u32 │ value
//! placement: 0 u32 (no name has that length) │ project id, extent size hint, the same for copy on write, flags: u32 each
//! ```
//!
//! ACLs, file capabilities and security labels are extended attributes (`xattr(7)`) and so are part
//! of it. Inode flags are not: a file with flags of its own is never unified ([`Flags::Unusual`]). The
//! [`Placement`] has those flags that XFS alone knows.
//!
//! `prove` reads a file under a lease, so that its identity stays true. This room stands on `vhashify-sys` and, for the
//! reasons to skip a file, on [`crate::outcome`]; it knows no store, no object and no run.
//!
//! [`Flags::Unusual`]: vhashify_sys::flags::Flags::Unusual

mod digest;
mod prove;

use std::ffi::OsString;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

pub use digest::{Digester, ReadError};
pub use prove::{Change, Leased, Proven, Unproven, look_again};

use vhashify_sys::call_error::FailedCall;
use vhashify_sys::placement::Placement;
use vhashify_sys::stamp::Stamp;
use vhashify_sys::xattr;

/// BLAKE3 of a file's content.
pub type Digest = [u8; 32];

/// The first half of BLAKE3 of a file's metadata.
pub type Fingerprint = [u8; 16];

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

/// Fingerprints the metadata of an open file whose inode is `stamp`.
///
/// # Errors
/// What `flistxattr(2)`, `fgetxattr(2)` and [`Placement::of`] list, with the name of the call.
pub fn fingerprint(
    file: BorrowedFd<'_>,
    stamp: &Stamp,
    mtime: Mtime,
) -> Result<Fingerprint, FailedCall> {
    let placement = Placement::of(file).map_err(FailedCall::of("ioctl(FS_IOC_FSGETXATTR)"))?;
    let attributes = extended_attributes(file)?;
    Ok(fingerprint_of(stamp, &attributes, placement, mtime))
}

/// Fingerprints metadata that were looked at.
#[must_use]
pub fn fingerprint_of(
    stamp: &Stamp,
    attributes: &ExtendedAttributes,
    placement: Placement,
    mtime: Mtime,
) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&u32::from(stamp.mode).to_le_bytes());
    hasher.update(&stamp.owner.to_le_bytes());
    hasher.update(&stamp.group.to_le_bytes());
    if mtime == Mtime::Kept {
        hasher.update(&stamp.mtime.seconds.to_le_bytes());
        hasher.update(&stamp.mtime.nanoseconds.to_le_bytes());
    }
    for (name, value) in attributes {
        for part in [name.as_encoded_bytes(), value] {
            // Names end at 255 bytes and values at 64 KiB (`xattr(7)`).
            hasher.update(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            hasher.update(part);
        }
    }
    if !placement.is_plain() {
        let Placement {
            project,
            extent_size,
            cow_extent_size,
            flags,
        } = placement;
        for number in [0, project, extent_size, cow_extent_size, flags] {
            hasher.update(&number.to_le_bytes());
        }
    }
    let mut shortened = Fingerprint::default();
    hasher.finalize_xof().fill(&mut shortened);
    shortened
}

/// Extended attributes as (name, value), sorted by name.
pub type ExtendedAttributes = Vec<(OsString, Vec<u8>)>;

/// The extended attributes of an open file.
///
/// # Errors
/// What `flistxattr(2)` and `fgetxattr(2)` list, with the name of the call.
pub fn extended_attributes(file: BorrowedFd<'_>) -> Result<ExtendedAttributes, FailedCall> {
    let names = match xattr::list(&file) {
        Ok(names) => names,
        // A filesystem without extended attributes has files without them.
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(FailedCall::of("flistxattr")(errno)),
    };
    let mut attributes = Vec::new();
    for name in names {
        match xattr::get(&file, &name) {
            Ok(Some(value)) => attributes.push((name, value)),
            // Removed since it was listed. `look_again` finds out where that matters.
            Ok(None) => {}
            Err(errno) => return Err(FailedCall::of("fgetxattr")(errno)),
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}
