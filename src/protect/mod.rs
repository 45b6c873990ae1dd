//! Keeps a guest from writing to files that others share: a file for each way.
//!
//! | mode | what guests share | content is safe | metadata and locks are safe | where |
//! | --- | --- | --- | --- | --- |
//! | `lsm` | inodes, marked | yes | yes: the guard refuses changes and locks | kernels with an active BPF security module |
//! | `reflink` | extents | yes | yes: every guest has inodes of its own | Btrfs, XFS |
//! | `verity` | inodes, marked | yes: fs-verity | no | ext4 with `-O verity`, Btrfs |
//! | `none` | inodes, marked | no | no | everywhere; for trusted guests at rest |
//!
//! `auto` takes `lsm`, or else `reflink`: the first that works when it is tried on the store's filesystem. Where
//! neither does, the run is refused; it never shares writable inodes in silence. `auto` never takes `verity`,
//! because all guests would see what one does to the metadata of a shared inode.
//!
//! ```text
//! enable(mode, store) ─▶ Way: tried on files without names ─▶ Sharing::Inodes(Protection) | Sharing::Extents
//! probe  (a dry run)  ─▶ the same, but loads no guard           or what each mode lacks (ProtectError)
//! ```

mod error;
#[cfg(feature = "guard")]
pub mod guard;
pub mod lsm;
mod none;
mod reflink;
mod verity;

use std::os::fd::BorrowedFd;
use std::path::Path;

pub use error::{Missing, ProtectError};
pub use none::MarkOnly;
pub use reflink::Reflink;
pub use verity::{Verity, holds_its_bytes};

/// How to protect what guests share (`--protect`).
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

/// Puts inodes under protection, and takes it off again.
pub trait Protection: Sync {
    /// Whether the kernel refuses every change of a protected inode: content, metadata and locks.
    fn is_enforced(&self) -> bool;

    /// Puts the inode under protection. Doing it twice does no harm.
    ///
    /// # Errors
    /// What the filesystem answers.
    fn protect(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()>;

    /// Whether an object must be a new inode: [`protect`](Self::protect) cannot be undone, and must not stay on a
    /// guest's own file.
    fn wants_copies(&self) -> bool {
        false
    }

    /// Whether an object of an earlier run, maybe of another mode, is protected as this mode wants it.
    ///
    /// # Errors
    /// What the filesystem answers.
    fn holds(&self, _object: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        Ok(true)
    }

    /// Takes the protection off an inode that did not become an object.
    ///
    /// # Errors
    /// What the filesystem answers.
    fn release(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()>;
}

/// What guests share.
pub enum Sharing {
    /// Inodes, as objects of the store, each under this protection.
    Inodes(Box<dyn Protection>),
    /// Extents of inodes of their own.
    Extents(Reflink),
}

impl Sharing {
    /// The protection of objects. Where guests share extents, objects of earlier runs keep their mark.
    #[must_use]
    pub fn protection(&self) -> &dyn Protection {
        match self {
            Self::Inodes(protection) => &**protection,
            Self::Extents(_) => &MarkOnly,
        }
    }

    /// The filesystem, where guests share extents.
    #[must_use]
    pub fn reflink(&self) -> Option<Reflink> {
        match self {
            Self::Inodes(_) => None,
            Self::Extents(reflink) => Some(*reflink),
        }
    }
}

/// A way to keep guests apart.
struct Way {
    mode: Mode,
    /// Whether it keeps guests apart in everything, so that [`Mode::Auto`] may take it.
    is_whole: bool,
    /// Puts it in place for a store, and tries it there.
    enable: fn(&Path) -> Result<Sharing, Missing>,
    /// What [`Way::enable`] would share, as far as it can be known by one that leaves everything as it is.
    probe: fn(&Path) -> Result<Sharing, Missing>,
}

/// The ways that enforce something, the strongest first.
const WAYS: [Way; 3] = [
    Way {
        mode: Mode::Lsm,
        is_whole: true,
        enable: |store| lsm::enable(store).map(|guard| Sharing::Inodes(Box::new(guard))),
        probe: |_| lsm::probe().map(|()| Sharing::Inodes(Box::new(MarkOnly))),
    },
    Way {
        mode: Mode::Reflink,
        is_whole: true,
        enable: |store| Reflink::probe(store).map(Sharing::Extents),
        probe: |store| Reflink::probe(store).map(Sharing::Extents),
    },
    Way {
        mode: Mode::Verity,
        is_whole: false,
        enable: |store| Verity::probe(store).map(|verity| Sharing::Inodes(Box::new(verity))),
        probe: |store| Verity::probe(store).map(|_| Sharing::Inodes(Box::new(MarkOnly))),
    },
];

/// Puts `mode` in place for a store: the mode that was chosen, and what its guests share.
///
/// # Errors
/// What is missing, where `mode` cannot be enforced, or none can for [`Mode::Auto`].
pub fn enable(mode: Mode, store: &Path) -> Result<(Mode, Sharing), ProtectError> {
    first(mode, store, |way| (way.enable)(store))
}

/// What [`enable`] would choose, for a dry run, which puts nothing in place. Where [`enable`] would refuse
/// [`Mode::Auto`] it is [`Mode::None`]: a dry run shares nothing that would need protection.
///
/// # Errors
/// What is missing, where another mode certainly cannot be enforced.
pub fn probe(mode: Mode, store: &Path) -> Result<(Mode, Sharing), ProtectError> {
    match first(mode, store, |way| (way.probe)(store)) {
        Err(_) if mode == Mode::Auto => Ok(without_enforcement()),
        probed => probed,
    }
}

fn first(
    mode: Mode,
    store: &Path,
    take: impl Fn(&Way) -> Result<Sharing, Missing>,
) -> Result<(Mode, Sharing), ProtectError> {
    if mode == Mode::None {
        return Ok(without_enforcement());
    }
    let mut missing = Vec::new();
    for way in &WAYS {
        if mode == way.mode || mode == Mode::Auto && way.is_whole {
            match take(way) {
                Ok(sharing) => return Ok((way.mode, sharing)),
                Err(clause) => missing.push((way.mode, clause)),
            }
        }
    }
    let store = store.to_path_buf();
    Err(ProtectError { store, missing })
}

fn without_enforcement() -> (Mode, Sharing) {
    (Mode::None, Sharing::Inodes(Box::new(MarkOnly)))
}
