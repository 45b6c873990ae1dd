//! What keeps a shared inode from being written: one trait, one file for each way.
//!
//! | mode | what it does | where |
//! | --- | --- | --- |
//! | `none` | sets the mark of iunlink and enforces nothing | everywhere; for trusted guests at rest |
//! | `auto` | the strongest that this host can enforce, or an error | |
//!
//! This version enforces none yet, so that `auto` is always refused: writable inodes are never
//! shared in silence.

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

/// Chooses the protection for a store.
///
/// # Errors
/// [`Error::NoProtection`] for [`Mode::Auto`] where nothing can be enforced, with what is missing.
pub fn choose(mode: Mode, store: &Path) -> Result<Box<dyn Protection>, Error> {
    match mode {
        Mode::None => Ok(Box::new(MarkOnly)),
        Mode::Auto => Err(Error::NoProtection {
            store: store.to_path_buf(),
            missing: missing(),
        }),
    }
}

/// What stands in the way of enforcement on this host.
fn missing() -> String {
    const ACTIVE: &str = "/sys/kernel/security/lsm";
    let kernel = match std::fs::read_to_string(ACTIVE) {
        Ok(active) if active.trim().split(',').any(|module| module == "bpf") => "",
        Ok(_) => " and the kernel has no active bpf security module (/sys/kernel/security/lsm)",
        Err(_) => {
            " and the kernel does not say which security modules are active (/sys/kernel/security/lsm)"
        }
    };
    format!("this version of vhashify has no guard, fs-verity or reflink mode{kernel}")
}
