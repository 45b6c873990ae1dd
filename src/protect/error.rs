//! Why shared files cannot be protected, mode by mode.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::reason;
use vhashify_sys::shown::Shown;

use super::Mode;
#[cfg(feature = "guard")]
use super::guard::GuardError;

/// This host cannot enforce the mode of `--protect`.
#[derive(Debug, Error)]
#[error(
    "shared files of {} cannot be protected: {}; for guests that are at rest and trusted, --protect none marks files without enforcing it",
    Shown::path(store),
    clauses(missing)
)]
pub struct ProtectError {
    /// The store.
    pub store: PathBuf,
    /// What each mode that was tried lacks.
    pub missing: Vec<(Mode, Missing)>,
}

/// What one mode lacks on this host, or on the filesystem of a store: a clause.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Missing {
    /// `lsm`: the guard cannot be loaded, or does not know the filesystem.
    #[cfg(feature = "guard")]
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// `lsm`: this build has no guard.
    #[error("this vhashify was built without the guard")]
    GuardNotBuilt,
    /// `lsm`: somebody unloaded the guard before this process got its permit.
    #[error("somebody has just unloaded the guard")]
    GuardUnloaded,
    /// `lsm`: the store's directory cannot be opened.
    #[error("the store cannot be opened: {0}")]
    StoreUnopened(#[source] Errno),
    /// `lsm`: the store takes no file to try the guard on.
    #[error("the guard cannot be tried, the store takes no file: {0}")]
    NoFile(#[source] Errno),
    /// `lsm`: the filesystem does not keep the mark's inode flags.
    #[error("the store's filesystem keeps no mark: {0}")]
    NoMark(#[source] Errno),
    /// `lsm`: the marked file could not be opened for another reason than the guard.
    #[error("the guard cannot be tried: {0}")]
    GuardUntried(#[source] Errno),
    /// `lsm`: the guard let a writer open a marked file.
    #[error("the guard is loaded and lets a writer through")]
    LetsWriterThrough,
    /// `reflink`: the filesystem has no such ioctl.
    #[error("its filesystem does not share extents (Btrfs does, and XFS made with reflink=1)")]
    NoSharedExtents,
    /// `reflink`: the test failed for another reason.
    #[error("whether its filesystem shares extents cannot be tried: {}", words(*.0))]
    ExtentsUntried(#[source] Errno),
    /// `verity`: the filesystem or the kernel has no fs-verity.
    #[error(
        "fs-verity is not enabled on its filesystem (ext4: tune2fs -O verity; Btrfs has it always) or missing in this kernel (CONFIG_FS_VERITY)"
    )]
    NoVerity,
    /// `verity`: the test failed for another reason.
    #[error("fs-verity cannot be tried: {}", words(*.0))]
    VerityUntried(#[source] Errno),
}

/// One clause for each mode.
fn clauses(missing: &[(Mode, Missing)]) -> String {
    let clauses: Vec<String> = missing
        .iter()
        .map(|(mode, clause)| format!("{}: {clause}", mode.name()))
        .collect();
    clauses.join(", ")
}

/// The system's words for an error.
fn words(errno: Errno) -> String {
    reason(&io::Error::from(errno))
}
