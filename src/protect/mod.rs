//! What keeps one guest from writing to what others share: a file for each way.
//!
//! | mode | what guests share | content is safe | metadata and locks are safe | where |
//! | --- | --- | --- | --- | --- |
//! | `reflink` | extents | yes | yes: every guest has inodes of its own | Btrfs, XFS |
//! | `none` | inodes, marked | no | no | everywhere; for trusted guests at rest |
//!
//! `auto` takes the first way that this host and the store's filesystem can enforce, and it has been
//! tried, not guessed. Where there is none it is refused: writable inodes are never shared in
//! silence.

mod none;
mod reflink;

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::error::Error;

pub use none::MarkOnly;
pub use reflink::Reflink;

/// How what guests share is to be protected (`--protect`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The first that this host and filesystem can enforce.
    Auto,
    /// Shares extents and no inodes.
    Reflink,
    /// Marks without enforcement.
    None,
}

impl Mode {
    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Reflink => "reflink",
            Self::None => "none",
        }
    }
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

/// What guests are to share, so that they stay apart.
pub enum Sharing {
    /// Inodes, as objects of the store, each under this protection.
    Inodes(Box<dyn Protection>),
    /// Extents of inodes of their own.
    Extents(Reflink),
}

impl Sharing {
    /// What objects are put under. Where no inodes are shared there may be objects of earlier runs,
    /// which keep their mark.
    #[must_use]
    pub fn protection(&self) -> &dyn Protection {
        match self {
            Self::Inodes(protection) => &**protection,
            Self::Extents(_) => &MarkOnly,
        }
    }

    /// Set where extents are shared.
    #[must_use]
    pub fn reflink(&self) -> Option<Reflink> {
        match self {
            Self::Inodes(_) => None,
            Self::Extents(reflink) => Some(*reflink),
        }
    }
}

/// A way that can be enforced, or what is missing for it, in a clause.
type Way = fn(&Path) -> Result<Sharing, String>;

/// The ways that enforce something, the strongest first.
// The guard goes first: `(Mode::Lsm, |store| lsm::enforce(store).map(…))`; `UNBUILT` goes then.
const WAYS: [(Mode, Way); 1] = [(Mode::Reflink, |store| {
    Reflink::enforce(store).map(Sharing::Extents)
})];

/// What this version cannot do yet.
const UNBUILT: &str = "lsm: this version of vhashify has no guard";

/// Chooses what guests of a store share, and the mode that was chosen.
///
/// # Errors
/// [`Error::NoProtection`] where the mode cannot be enforced, or for [`Mode::Auto`] none can, with
/// what is missing.
pub fn choose(mode: Mode, store: &Path) -> Result<(Mode, Sharing), Error> {
    if mode == Mode::None {
        return Ok((mode, Sharing::Inodes(Box::new(MarkOnly))));
    }
    let mut missing = Vec::new();
    if mode == Mode::Auto {
        missing.push(UNBUILT.to_owned());
    }
    for (way, enforce) in WAYS {
        if mode == way || mode == Mode::Auto {
            match enforce(store) {
                Ok(sharing) => return Ok((way, sharing)),
                Err(clause) => missing.push(format!("{}: {clause}", way.name())),
            }
        }
    }
    Err(Error::NoProtection {
        store: store.to_path_buf(),
        missing: missing.join(", "),
    })
}
