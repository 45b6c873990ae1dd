//! What keeps a shared inode from being written: one trait, one file for each way.
//!
//! | mode | what it does | where |
//! | --- | --- | --- |
//! | `lsm` | sets the mark of iunlink, which the guard enforces | kernels with an active BPF security module |
//! | `none` | sets the mark of iunlink and enforces nothing | everywhere; for trusted guests at rest |
//! | `auto` | the strongest that this host can enforce, or an error | |
//!
//! Where nothing can be enforced `auto` is refused: writable inodes are never shared in silence.

#[cfg(feature = "guard")]
pub mod guard;
pub mod lsm;
mod none;

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::error::Error;

pub use none::MarkOnly;

/// How shared inodes are to be protected (`--protect`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The first that this host and filesystem can enforce.
    Auto,
    /// Marks that the guard enforces.
    Lsm,
    /// Marks without enforcement.
    None,
}

/// Makes an inode an object and takes that back.
pub trait Protection: Sync {
    /// Whether an inode that was put under protection cannot be opened for writing any more.
    fn is_enforced(&self) -> bool;

    /// Puts the inode under protection. Doing it twice does no harm.
    ///
    /// # Errors
    /// What the filesystem answers.
    fn protect(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()>;

    /// Takes the protection off an inode that did not become an object after all.
    ///
    /// # Errors
    /// What the filesystem answers.
    fn release(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()>;
}

/// Chooses the protection for a store, and has it in place.
///
/// # Errors
/// [`Error::NoProtection`] where nothing can be enforced and [`Mode::None`] is not meant, with what
/// is missing.
pub fn choose(mode: Mode, store: &Path) -> Result<Box<dyn Protection>, Error> {
    match mode {
        Mode::None => Ok(Box::new(MarkOnly)),
        Mode::Auto | Mode::Lsm => match lsm::enforce(store) {
            Ok(guard) => Ok(Box::new(guard)),
            Err(missing) => Err(Error::NoProtection {
                store: store.to_path_buf(),
                missing,
            }),
        },
    }
}
