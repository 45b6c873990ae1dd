//! Proves what a file is: leases it, reads it, and keeps the lease.
//!
//! ```text
//! open file ─▶ Leased ───────▶ Proven ───────────▶ look_again ─▶ Stamp: still what was proven
//!              lease granted,  content and         │
//!              inode looked at metadata read       └▶ Change: a writer waits, or metadata changed
//! ```
//!
//! The kernel grants a read lease (`fcntl(2)`, `F_SETLEASE`) only while no process has the file open for
//! writing. It makes every later writer wait until the lease is given back, and tells the holder. So the
//! content that was read stays the content of the file while the lease is unbroken. A lease does not hold
//! back changes of metadata (`chmod(2)`, `setxattr(2)`, `link(2)`); [`look_again`] reads these once more.
//!
//! A digest is therefore never returned without the leased file, and no caller links a file of which it
//! does not hold a [`Proven`] or, for an object, a [`Leased`] with the stamp of an earlier proof.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::flags::{self, Flags};
use vhashify_sys::lease::{LeasedFile, NoLease};
use vhashify_sys::placement::Placement;
use vhashify_sys::stamp::Stamp;

use crate::identity::{self, Digest, Digester, Identity, Mtime, ReadError};
use crate::outcome::Skip;

/// A file under a read lease, whose inode says nothing against sharing it: it is regular, has no holes and no
/// inode flags of its own. The content is not read yet.
#[derive(Debug)]
pub struct Leased {
    /// The open file.
    pub file: LeasedFile,
    /// Its inode, as it was when the lease was granted.
    pub stamp: Stamp,
    /// Whether it bears the mark of iunlink.
    pub is_marked: bool,
    /// Where its data go and on which project's account.
    pub placement: Placement,
}

/// A leased file whose content and metadata were read: the proof of what it is.
#[derive(Debug)]
pub struct Proven {
    /// The file. What was read of its content stays true while its lease is unbroken.
    pub leased: Leased,
    /// What was read.
    pub identity: Identity,
}

/// Why there is no proof of what a file is. It is left alone then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unproven {
    /// For a reason that is no error.
    #[error("skipped: {}", .0.name())]
    Skipped(Skip),
    /// A system call failed.
    #[error(transparent)]
    Failed(#[from] FailedCall),
}

impl Leased {
    /// Takes the lease and looks at the inode. The lease comes first, so that nobody writes between the look and
    /// the reading.
    ///
    /// # Errors
    /// A reason to leave the file alone.
    pub fn new(file: OwnedFd) -> Result<Self, Unproven> {
        let file = LeasedFile::acquire(file).map_err(unleased)?;
        let stamp = Stamp::of(file.as_fd()).map_err(FailedCall::of("statx"))?;
        // On a device a lease means nothing.
        if !stamp.is_regular() {
            return Err(Unproven::Skipped(Skip::Changed));
        }
        let is_marked = match flags::read(file.as_fd()).map_err(FailedCall::of("ioctl"))? {
            Flags::Plain => false,
            Flags::Marked => true,
            Flags::Unusual => return Err(Unproven::Skipped(Skip::UnusualFlags)),
        };
        if has_holes(&file, &stamp).map_err(FailedCall::of("lseek"))? {
            return Err(Unproven::Skipped(Skip::Sparse));
        }
        let placement = Placement::of(file.as_fd());
        Ok(Self {
            placement: placement.map_err(FailedCall::of("ioctl(FS_IOC_FSGETXATTR)"))?,
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
        let digest = digester.digest(&self.file, self.stamp.size);
        self.proven(digest, mtime)
    }

    /// As [`prove`](Self::prove), but reads the content from the disk, and not what the page cache holds of it.
    ///
    /// # Errors
    /// A reason to leave the file alone.
    pub fn prove_from_disk(
        self,
        mtime: Mtime,
        digester: &mut Digester,
    ) -> Result<Proven, Unproven> {
        let digest = digester.digest_from_disk(&self.file, self.stamp.size);
        self.proven(digest, mtime)
    }

    fn proven(self, digest: Result<Digest, ReadError>, mtime: Mtime) -> Result<Proven, Unproven> {
        let digest = digest.map_err(|error| match error {
            ReadError::LeaseBroken => Unproven::Skipped(Skip::OpenForWriting),
            ReadError::SizeChanged => Unproven::Skipped(Skip::Changed),
            ReadError::Call(failed) => Unproven::Failed(failed),
        })?;
        let attributes = identity::extended_attributes(self.file.as_fd())?;
        let fingerprint = identity::fingerprint_of(&self.stamp, &attributes, self.placement, mtime);
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
        // A FIFO or a device has taken the file's place.
        (_, Ok(stamp)) if !stamp.is_regular() => Unproven::Skipped(Skip::Changed),
        (Errno::AGAIN, _) => Unproven::Skipped(Skip::OpenForWriting),
        _ => FailedCall::of("fcntl(F_SETLEASE)")(errno).into(),
    }
}

/// What happened to a file since it was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A process waits to write to it, and may write as soon as the lease is given back.
    WriterWaits,
    /// Its metadata changed, which no lease prevents, or could not be read.
    MetadataChanged,
}

/// Checks that a file still is what was proven under the stamp `proven`: its content by the lease, its metadata by
/// reading them again. Returns its inode as it is now.
///
/// Size and mtime must be those of the proof, whatever the identity covers: `open(O_RDONLY | O_TRUNC)` truncates a
/// file and breaks no read lease. Link count and ctime may differ: the run itself adds and removes names meanwhile.
/// Inode flags, and a [`Placement`] where there was none, are not looked for again.
///
/// # Errors
/// [`Change`]: what changed, or may have.
pub fn look_again(file: &LeasedFile, proven: &Stamp, identity: &Identity) -> Result<Stamp, Change> {
    if !file.has_no_writer() {
        return Err(Change::WriterWaits);
    }
    // The inode last, so that little time passes between this look and the next step of the caller.
    let attributes = identity::extended_attributes(file.as_fd());
    let attributes = attributes.map_err(|_| Change::MetadataChanged)?;
    let stamp = Stamp::of(file.as_fd()).map_err(|_| Change::MetadataChanged)?;
    let is_proven = |placement| {
        let now = identity::fingerprint_of(&stamp, &attributes, placement, identity.mtime);
        now == identity.fingerprint
    };
    // Nearly every file has a plain placement, and no further call is made for it.
    let has_fingerprint = is_proven(Placement::default())
        || Placement::of(file.as_fd()).is_ok_and(|now| !now.is_plain() && is_proven(now));
    let is_as_proven = (stamp.size, stamp.mtime) == (proven.size, proven.mtime);
    if is_as_proven && has_fingerprint {
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
