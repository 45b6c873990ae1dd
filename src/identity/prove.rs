//! Proves what a file is: opens it, takes a read lease, reads it, and keeps the lease.
//!
//! A digest is true only while the lease under which it was read is held. So nothing here returns
//! a digest without the leased file, and nothing is linked without one of these in hand.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use vhashify_sys::flags::{self, Flags};
use vhashify_sys::lease::{LeasedFile, NoLease};
use vhashify_sys::stamp::Stamp;

use crate::identity::{self, Digester, Identity, Mtime, ReadError};
use crate::outcome::Skip;

/// A file under a lease that may be shared as far as its inode shows.
#[derive(Debug)]
pub struct Leased {
    /// The open file.
    pub file: LeasedFile,
    /// Its inode, as it was when the lease was granted.
    pub stamp: Stamp,
    /// Whether it bears the mark of iunlink.
    pub is_marked: bool,
}

/// A leased file whose content and metadata were read.
#[derive(Debug)]
pub struct Proven {
    /// The file; what was read stays true while its lease is unbroken.
    pub leased: Leased,
    /// What was read.
    pub identity: Identity,
}

/// Why a file is not to be touched.
#[derive(Debug)]
pub enum Unproven {
    /// For a reason that is no error.
    Skipped(Skip),
    /// A system call failed.
    Failed(&'static str, io::Error),
}

impl Unproven {
    fn failed(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Failed(call, errno.into())
    }
}

impl Leased {
    /// Takes the lease and looks at the inode.
    ///
    /// # Errors
    /// A reason to leave the file alone.
    pub fn new(file: OwnedFd) -> Result<Self, Unproven> {
        let file = LeasedFile::acquire(file).map_err(unleased)?;
        let stamp = Stamp::of(file.as_fd()).map_err(Unproven::failed("statx"))?;
        // A lease on a device would not mean anything.
        if !stamp.is_regular() {
            return Err(Unproven::Skipped(Skip::Changed));
        }
        let is_marked = match flags::read(file.as_fd()).map_err(Unproven::failed("ioctl"))? {
            Flags::Plain => false,
            Flags::Marked => true,
            Flags::Unusual => return Err(Unproven::Skipped(Skip::UnusualFlags)),
        };
        if has_holes(&file, &stamp).map_err(Unproven::failed("lseek"))? {
            return Err(Unproven::Skipped(Skip::Sparse));
        }
        Ok(Self {
            file,
            stamp,
            is_marked,
        })
    }

    /// Reads content and metadata.
    ///
    /// # Errors
    /// A reason to leave the file alone.
    pub fn prove(self, mtime: Mtime, digester: &mut Digester) -> Result<Proven, Unproven> {
        let digest = digester
            .digest(&self.file, self.stamp.size)
            .map_err(|error| match error {
                ReadError::LeaseBroken => Unproven::Skipped(Skip::OpenForWriting),
                ReadError::SizeChanged => Unproven::Skipped(Skip::Changed),
                ReadError::Call(call, error) => Unproven::Failed(call, error),
            })?;
        let fingerprint = identity::fingerprint(self.file.as_fd(), &self.stamp, mtime)
            .map_err(|(call, error)| Unproven::Failed(call, error))?;
        Ok(Proven {
            leased: self,
            identity: Identity {
                digest,
                fingerprint,
                mtime,
            },
        })
    }
}

/// Why a file without a lease is not to be touched.
fn unleased(NoLease { file, errno }: NoLease) -> Unproven {
    match (errno, Stamp::of(file.as_fd())) {
        // A FIFO or a device took the file's place.
        (_, Ok(stamp)) if !stamp.is_regular() => Unproven::Skipped(Skip::Changed),
        (Errno::AGAIN, _) => Unproven::Skipped(Skip::OpenForWriting),
        _ => Unproven::Failed("fcntl(F_SETLEASE)", errno.into()),
    }
}

/// What became of a file since it was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Somebody waits to write to it.
    WriterWaits,
    /// Its metadata changed, which no lease prevents.
    MetadataChanged,
}

/// Looks whether a file is still what was proven: content by its lease, metadata by another look,
/// which is returned.
///
/// Link count and ctime may have moved: names were added and taken away meanwhile.
///
/// # Errors
/// What changed, or may have.
pub fn look_again(file: &LeasedFile, identity: &Identity) -> Result<Stamp, Change> {
    if !file.has_no_writer() {
        return Err(Change::WriterWaits);
    }
    // The inode last, so that little stands between this look and the next step of the caller.
    let attributes = identity::extended_attributes(file.as_fd());
    let attributes = attributes.map_err(|_| Change::MetadataChanged)?;
    let stamp = Stamp::of(file.as_fd()).map_err(|_| Change::MetadataChanged)?;
    let fingerprint = identity::fingerprint_of(&stamp, &attributes, identity.mtime);
    if fingerprint == identity.fingerprint {
        Ok(stamp)
    } else {
        Err(Change::MetadataChanged)
    }
}

fn has_holes(file: &LeasedFile, stamp: &Stamp) -> Result<bool, Errno> {
    if stamp.allocated >= stamp.size {
        return Ok(false);
    }
    // Fewer blocks than bytes: holes, or a small file that the filesystem keeps in its inode.
    match rustix::fs::seek(file.as_fd(), SeekFrom::Hole(0)) {
        Ok(first) => Ok(first < stamp.size),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(true),
        Err(errno) => Err(errno),
    }
}
