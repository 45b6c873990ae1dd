//! Keeps a guest from changing files that others share. Each mode has a file.
//!
//! | mode | what guests share | content is safe | metadata and locks are safe | where |
//! | --- | --- | --- | --- | --- |
//! | `lsm` | inodes, marked | yes | yes: the guard refuses changes and locks | kernels with an active BPF security module |
//! | `reflink` | extents | yes | yes: every guest has inodes of its own | Btrfs, XFS |
//! | `verity` | inodes, marked | yes: fs-verity | no | ext4 with `-O verity`, Btrfs |
//! | `none` | inodes, marked | no | no | everywhere; for trusted guests at rest |
//!
//! `auto` takes `lsm`, or else `reflink`: the first that a test on the store's filesystem shows to work. If neither
//! works, the run refuses to share; it never silently shares inodes that guests can write. `auto` never takes
//! `verity`, because all guests would see what one does to the metadata of a shared inode.
//!
//! ```text
//! enable(mode, store) ─▶ tests an Enforcement on nameless files ─▶ Sharing::Inodes(Protection) | Sharing::Extents
//! probe  (a dry run)  ─▶ the same, but loads no guard               or what each mode lacks (ProtectError)
//! ```

mod error;
#[cfg(feature = "guard")]
pub mod guard;
pub mod lsm;
mod none;
mod reflink;
mod turns_back;
mod verity;

use std::os::fd::BorrowedFd;
use std::path::Path;

pub use error::{Missing, ProtectError};
pub use none::MarkOnly;
pub use reflink::Reflink;
pub use turns_back::TurnsBack;
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
    /// Marks, and content that fs-verity protects.
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
pub trait Protection: Sync + TurnsBack {
    /// Whether the kernel refuses every change of a protected inode: content, metadata and locks.
    fn is_enforced(&self) -> bool;

    /// Puts the inode under protection. Doing it twice does no harm.
    ///
    /// # Errors
    /// The filesystem's error.
    fn protect(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()>;

    /// Whether nothing turns those back who come late for a file that was just replaced, so that a run has to wait for
    /// them.
    fn needs_grace(&self) -> bool {
        true
    }

    /// Whether each object must be a copy, because [`protect`](Self::protect) cannot be undone and must not stay on a
    /// guest's own file.
    fn wants_copies(&self) -> bool {
        false
    }

    /// Whether an object of an earlier run, which may have had another mode, is protected as this mode needs it.
    ///
    /// # Errors
    /// The filesystem's error.
    fn holds(&self, _object: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        Ok(true)
    }

    /// Takes the protection off an inode that did not become an object.
    ///
    /// # Errors
    /// The filesystem's error.
    fn release(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()>;
}

/// What guests share.
pub enum Sharing {
    /// Inodes, as objects of the store, each under this protection.
    Inodes(Box<dyn Protection>),
    /// Extents. Each guest has inodes of its own.
    Extents(Reflink),
}

impl Sharing {
    /// The protection of objects. If guests share extents, objects of earlier runs keep their mark.
    #[must_use]
    pub fn protection(&self) -> &dyn Protection {
        match self {
            Self::Inodes(protection) => &**protection,
            Self::Extents(_) => &MarkOnly,
        }
    }

    /// The filesystem, if guests share extents.
    #[must_use]
    pub fn reflink(&self) -> Option<Reflink> {
        match self {
            Self::Inodes(_) => None,
            Self::Extents(reflink) => Some(*reflink),
        }
    }
}

/// Lets processes change a file again that a killed command has displaced under the guard, before it gets its names back.
/// Does nothing where no guard is loaded.
///
/// # Errors
/// What `bpf(2)` lists.
pub fn let_in(file: BorrowedFd<'_>) -> rustix::io::Result<()> {
    #[cfg(feature = "guard")]
    guard::let_in(file)?;
    #[cfg(not(feature = "guard"))]
    let _ = file;
    Ok(())
}

/// Whether the guard is loaded and holds what is shared on the filesystem of a store. False where that cannot be told.
#[must_use]
pub fn is_guarded(store: &Path) -> bool {
    #[cfg(feature = "guard")]
    return guard::guards(store).unwrap_or(false);
    #[cfg(not(feature = "guard"))]
    {
        let _ = store;
        false
    }
}

/// A mode that enforces something.
struct Enforcement {
    mode: Mode,
    /// Whether it protects content, metadata and locks, so that [`Mode::Auto`] may take it.
    is_whole: bool,
    /// Enables it for a store, and tests it there.
    enable: fn(&Path) -> Result<Sharing, Missing>,
    /// What [`Self::enable`] would share, as far as that can be known without changing anything.
    probe: fn(&Path) -> Result<Sharing, Missing>,
}

/// The strongest first.
const ENFORCEMENTS: [Enforcement; 3] = [
    Enforcement {
        mode: Mode::Lsm,
        is_whole: true,
        enable: |store| lsm::enable(store).map(|guard| Sharing::Inodes(Box::new(guard))),
        probe: |_| lsm::probe().map(|()| Sharing::Inodes(Box::new(MarkOnly))),
    },
    Enforcement {
        mode: Mode::Reflink,
        is_whole: true,
        enable: |store| Reflink::probe(store).map(Sharing::Extents),
        probe: |store| Reflink::probe(store).map(Sharing::Extents),
    },
    Enforcement {
        mode: Mode::Verity,
        is_whole: false,
        enable: |store| Verity::probe(store).map(|verity| Sharing::Inodes(Box::new(verity))),
        probe: |store| Verity::probe(store).map(|_| Sharing::Inodes(Box::new(MarkOnly))),
    },
];

/// Enables `mode` for a store. Returns the mode, which it chooses for [`Mode::Auto`], and what guests share.
///
/// # Errors
/// `mode` cannot be enforced, or for [`Mode::Auto`] no mode can. Says what is missing.
pub fn enable(mode: Mode, store: &Path) -> Result<(Mode, Sharing), ProtectError> {
    first(mode, store, |enforcement| (enforcement.enable)(store))
}

/// What [`enable`] would return, for a dry run, which enables nothing. Returns [`Mode::None`] where [`enable`] would
/// refuse [`Mode::Auto`], because a dry run shares nothing that needs protection.
///
/// # Errors
/// Any other mode certainly cannot be enforced. Says what is missing.
pub fn probe(mode: Mode, store: &Path) -> Result<(Mode, Sharing), ProtectError> {
    match first(mode, store, |enforcement| (enforcement.probe)(store)) {
        Err(_) if mode == Mode::Auto => Ok(without_enforcement()),
        probed => probed,
    }
}

fn first(
    mode: Mode,
    store: &Path,
    take: impl Fn(&Enforcement) -> Result<Sharing, Missing>,
) -> Result<(Mode, Sharing), ProtectError> {
    if mode == Mode::None {
        return Ok(without_enforcement());
    }
    let mut missing = Vec::new();
    for enforcement in &ENFORCEMENTS {
        if mode == enforcement.mode || mode == Mode::Auto && enforcement.is_whole {
            match take(enforcement) {
                Ok(sharing) => return Ok((enforcement.mode, sharing)),
                Err(clause) => missing.push((enforcement.mode, clause)),
            }
        }
    }
    let store = store.to_path_buf();
    Err(ProtectError { store, missing })
}

fn without_enforcement() -> (Mode, Sharing) {
    (Mode::None, Sharing::Inodes(Box::new(MarkOnly)))
}
