//! `--protect reflink`: guests share extents, but no inode.
//!
//! Each guest keeps its own files, and the filesystem stores equal blocks of them once. When a guest writes, the
//! filesystem copies (copy on write): the new blocks belong to that guest's file alone. Mode, owner, attributes and
//! locks belong to inodes, which guests do not share. So there is nothing to protect, and runs are safe while
//! guests run. The price is memory: the page cache belongs to inodes, too.
//!
//! This mode makes no objects. A run uses the store only for its lock, `gc`, `verify` and `deunify` have nothing to do,
//! and a file that a guest removes or writes needs no bookkeeping.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;
use vhashify_sys::dedupe::{Outcome, share_extents};
use vhashify_sys::{resolve, tmpfile};

use super::Missing;

/// A filesystem that shared extents when [`Reflink::probe`] tried it.
#[derive(Debug, Clone, Copy)]
pub struct Reflink {
    /// Bytes of a block. A file takes whole blocks.
    pub block_size: u64,
}

impl Reflink {
    /// Tests it with two nameless files on the filesystem of `store`.
    ///
    /// # Errors
    /// What is missing.
    pub fn probe(store: &Path) -> Result<Self, Missing> {
        let missing = |errno| match errno {
            Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY => Missing::NoSharedExtents,
            errno => Missing::ExtentsUntried(errno),
        };
        let filesystem = rustix::fs::statfs(store).map_err(missing)?;
        let directory = resolve::open_host_directory(store).map_err(missing)?;
        let new = || block(directory.as_fd()).map_err(missing);
        let (one, other) = (new()?, new()?);
        let tried = share_extents(one.as_fd(), 0, BLOCK as u64, &[other.as_fd()]);
        match tried.map_err(missing)?.first() {
            Some(Outcome::Failed(errno)) => Err(missing(*errno)),
            Some(Outcome::Differs) | None => Err(missing(Errno::IO)),
            Some(Outcome::Shared) => Ok(Self {
                block_size: u64::try_from(filesystem.f_bsize).unwrap_or(0).max(512),
            }),
        }
    }
}

/// The largest block that Btrfs and XFS can have.
const BLOCK: usize = 64 << 10;

/// Makes a nameless file of one block. The kernel frees it when it is closed.
fn block(directory: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let file = File::from(tmpfile::create(directory)?);
    file.write_all_at(&vec![1; BLOCK], 0)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(file.into())
}
