//! The configuration files of a guest's packages, read from the package managers' databases.
//!
//! Nothing of the guest is executed: its rpm may be broken, of another architecture, or hostile.
//! Its files are hostile too. `guest` opens them inside the guest's root and bounds what is
//! read, `found` bounds what comes out, and each parser takes time in proportion to its input.
//!
//! | manager | database | which files |
//! | --- | --- | --- |
//! | dpkg | `var/lib/dpkg/status`, `status.d/*` | `Conffiles:` of every package not wholly removed |
//! | rpm | `rpmdb.sqlite`, `Packages.db`, `Packages` | files with the flag `RPMFILE_CONFIG` |
//! | apk | `lib/apk/db/installed` | files below the protected paths |
//! | pacman | `var/lib/pacman/local/*/files` | the section `%BACKUP%` |
//!
//! The parsers see bytes only, and [`Content`] is how a database is given to them without a guest.
#![forbid(unsafe_code)]

mod apk;
mod configuration_files;
mod content;
mod dpkg;
mod error;
mod pacman;
pub mod pattern;
mod root;
mod rpm;

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;

use configuration_files::Found;
pub use content::Content;
pub use error::PackageError;
use root::Guest;

/// A package manager whose database was found in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackageManager {
    /// Debian and its derivatives, and distroless images.
    Dpkg,
    /// Fedora, Red Hat, SUSE and theirs.
    Rpm,
    /// Alpine and its derivatives.
    Apk,
    /// Arch and its derivatives.
    Pacman,
}

impl fmt::Display for PackageManager {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Dpkg => "dpkg",
            Self::Rpm => "rpm",
            Self::Apk => "apk",
            Self::Pacman => "pacman",
        })
    }
}

/// What the package databases of one guest say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageFiles {
    /// The managers whose databases exist, in a fixed order; none is not an error.
    pub managers: Vec<PackageManager>,
    /// The configuration files as paths from the guest's root, beginning with `/`. Where a path
    /// leads through a symbolic link, both it and the path of the file itself are here.
    pub files: BTreeSet<Vec<u8>>,
}

/// Reads whichever package databases exist in the guest whose root is `vdir`; `vdir_path` is its
/// name for messages.
///
/// # Errors
/// A database exists and cannot be read, is no regular file, is too large, or is damaged.
pub fn configuration_files(
    vdir: BorrowedFd<'_>,
    vdir_path: &Path,
) -> Result<PackageFiles, PackageError> {
    type Reader = fn(&Guest<'_>, &mut Found) -> Result<bool, PackageError>;
    const READERS: [(PackageManager, Reader); 4] = [
        (PackageManager::Dpkg, dpkg::read),
        (PackageManager::Rpm, rpm::read),
        (PackageManager::Apk, apk::read),
        (PackageManager::Pacman, pacman::read),
    ];

    let guest = Guest::new(vdir, vdir_path);
    let mut found = Found::default();
    let mut managers = Vec::new();
    for (manager, read) in READERS {
        if read(&guest, &mut found)? {
            managers.push(manager);
        }
    }
    let mut files = found.into_files();
    let real: Vec<_> = files
        .iter()
        .filter_map(|file| guest.real_path(file))
        .collect();
    files.extend(real);
    Ok(PackageFiles { managers, files })
}
