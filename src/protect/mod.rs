//! What keeps one guest from writing to what others share: a file for each way.
//!
//! | mode | what guests share | content is safe | metadata and locks are safe | where |
//! | --- | --- | --- | --- | --- |
//! | `lsm` | inodes, marked | yes | yes: the guard refuses changes and locks | kernels with an active BPF security module |
//! | `reflink` | extents | yes | yes: every guest has inodes of its own | Btrfs, XFS |
//! | `verity` | inodes, marked | yes: fs-verity | no | ext4 with `-O verity`, Btrfs |
//! | `none` | inodes, marked | no | no | everywhere; for trusted guests at rest |
//!
//! `auto` takes the first way of these that this host and the store's filesystem can enforce, and
//! it has been tried, not guessed. Where there is none it is refused: writable inodes are never
//! shared in silence. `verity` is not for `auto`: what one guest does to the metadata of a shared inode
//! would be felt by all.

#[cfg(feature = "guard")]
pub mod guard;
pub mod lsm;
mod none;
mod reflink;
mod verity;

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::error::Error;

pub use none::MarkOnly;
pub use reflink::Reflink;
pub use verity::{Verity, holds_its_bytes};

/// How what guests share is to be protected (`--protect`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The first that this host and filesystem can enforce.
    Auto,
    /// Marks that the guard enforces.
    Lsm,
    /// Shares extents and no inodes.
    Reflink,
    /// Marks, and content that fs-verity holds.
    Verity,
    /// Marks without enforcement.
    None,
}

impl Mode {
    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Lsm => "lsm",
            Self::Reflink => "reflink",
            Self::Verity => "verity",
            Self::None => "none",
        }
    }
}

/// Makes an inode an object and takes that back.
pub trait Protection: Sync {
    /// Whether nothing of an inode that was put under protection can be changed any more.
    fn is_enforced(&self) -> bool;

    /// Puts the inode under protection. Doing it twice does no harm.
    ///
    /// # Errors
    /// What the filesystem answers.
    fn protect(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()>;

    /// Whether an object must be a new inode, because what [`protect`](Self::protect) does cannot be
    /// taken back, and a guest's own file must not be left with it.
    fn wants_copies(&self) -> bool {
        false
    }

    /// Whether an object that an earlier run made is under protection, maybe in another mode.
    ///
    /// # Errors
    /// What the filesystem answers.
    fn holds(&self, _object: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        Ok(true)
    }

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

/// A way to keep guests apart. Each function says what is missing for it, in a clause.
struct Way {
    mode: Mode,
    /// Has it in place for a store, and tries it there.
    enforce: fn(&Path) -> Result<Sharing, String>,
    /// Whether it keeps guests apart in everything, so that [`Mode::Auto`] may take it.
    is_whole: bool,
    /// The same for a dry run: what [`Way::enforce`] would share, as far as that can be said by one
    /// that leaves everything as it is.
    foresee: fn(&Path) -> Result<Sharing, String>,
}

/// The ways that enforce something, the strongest first.
const WAYS: [Way; 3] = [
    Way {
        mode: Mode::Lsm,
        is_whole: true,
        enforce: |store| lsm::enforce(store).map(|guard| Sharing::Inodes(Box::new(guard))),
        foresee: |_| lsm::foresee().map(|()| Sharing::Inodes(Box::new(MarkOnly))),
    },
    Way {
        mode: Mode::Reflink,
        is_whole: true,
        enforce: |store| Reflink::enforce(store).map(Sharing::Extents),
        foresee: |store| Reflink::enforce(store).map(Sharing::Extents),
    },
    Way {
        mode: Mode::Verity,
        is_whole: false,
        enforce: |store| Verity::enforce(store).map(|verity| Sharing::Inodes(Box::new(verity))),
        foresee: |store| Verity::enforce(store).map(|_| Sharing::Inodes(Box::new(MarkOnly))),
    },
];

/// Chooses what guests of a store share, and the mode that was chosen, and has it in place.
///
/// # Errors
/// [`Error::NoProtection`] where the mode cannot be enforced, or for [`Mode::Auto`] none can, with
/// what is missing.
pub fn choose(mode: Mode, store: &Path) -> Result<(Mode, Sharing), Error> {
    first(mode, store, |way| (way.enforce)(store))
}

/// What [`choose`] would choose, for a dry run: it puts nothing in place. Where [`Mode::Auto`] would
/// be refused it is taken for [`Mode::None`], since such a run shares nothing that would have to be
/// protected.
///
/// # Errors
/// [`Error::NoProtection`] where another mode certainly cannot be enforced.
pub fn foresee(mode: Mode, store: &Path) -> Result<(Mode, Sharing), Error> {
    match first(mode, store, |way| (way.foresee)(store)) {
        Err(_) if mode == Mode::Auto => Ok(without_enforcement()),
        foreseen => foreseen,
    }
}

fn first(
    mode: Mode,
    store: &Path,
    take: impl Fn(&Way) -> Result<Sharing, String>,
) -> Result<(Mode, Sharing), Error> {
    if mode == Mode::None {
        return Ok(without_enforcement());
    }
    let mut missing = Vec::new();
    for way in &WAYS {
        if mode == way.mode || mode == Mode::Auto && way.is_whole {
            match take(way) {
                Ok(sharing) => return Ok((way.mode, sharing)),
                Err(clause) => missing.push(format!("{}: {clause}", way.mode.name())),
            }
        }
    }
    Err(Error::NoProtection {
        store: store.to_path_buf(),
        missing: missing.join(", "),
    })
}

fn without_enforcement() -> (Mode, Sharing) {
    (Mode::None, Sharing::Inodes(Box::new(MarkOnly)))
}
