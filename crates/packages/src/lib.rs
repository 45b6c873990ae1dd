//! The configuration files of a guest's packages, read from the package managers' databases.
//!
//! [`configuration_files()`] reads those of a guest's root directory. apk lists protected paths as patterns, which
//! [`pattern`] matches; the crate `vhashify` uses it for its own lists, too.
//!
//! The crate executes nothing of the guest: its rpm may be broken, of another architecture, or hostile. Its files may be
//! hostile, too: `root` opens them inside the guest and limits how much it reads, `configuration_files` limits how much it
//! collects, and each parser takes time in proportion to its input.
//!
//! | manager | database | its configuration files |
//! | --- | --- | --- |
//! | dpkg | `var/lib/dpkg/status`, `status.d/*` | `Conffiles:` of every package not wholly removed |
//! | rpm | `rpmdb.sqlite`, `Packages.db`, `Packages` | files with the flag `RPMFILE_CONFIG` |
//! | apk | `lib/apk/db/installed` | files below the protected paths |
//! | pacman | `var/lib/pacman/local/*/files` | the section `%BACKUP%` |
//!
//! A parser sees bytes only, so tests and fuzz targets can parse a database without a guest ([`Content`]).
#![forbid(unsafe_code)]

mod apk;
mod configuration_files;
mod content;
mod dpkg;
mod error;
mod pacman;
pub mod pattern;
mod read_error;
mod root;
mod rpm;

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;

use configuration_files::ConfigurationFiles;
pub use content::Content;
pub use error::PackageError;
pub use read_error::ReadError;
use root::Root;

/// A package manager whose database a guest has.
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

/// The configuration files of one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageFiles {
    /// The managers whose databases exist, in a fixed order; there may be none.
    pub managers: Vec<PackageManager>,
    /// Their paths from the guest's root, beginning with `/`. Where a path leads through a symbolic link, both that
    /// path and the file's own are here.
    pub files: BTreeSet<Vec<u8>>,
}

/// Reads whichever package databases exist in the guest whose root is `vdir`; `vdir_path` is its
/// name for messages.
///
/// # Errors
/// [`PackageError`]: a database exists and cannot be read, is no regular file, is too large, or is damaged.
pub fn configuration_files(
    vdir: BorrowedFd<'_>,
    vdir_path: &Path,
) -> Result<PackageFiles, PackageError> {
    type Reader = fn(&Root<'_>, &mut ConfigurationFiles) -> Result<bool, PackageError>;
    const READERS: [(PackageManager, Reader); 4] = [
        (PackageManager::Dpkg, dpkg::read),
        (PackageManager::Rpm, rpm::read),
        (PackageManager::Apk, apk::read),
        (PackageManager::Pacman, pacman::read),
    ];

    let root = Root::new(vdir, vdir_path);
    let mut files = ConfigurationFiles::default();
    let mut managers = Vec::new();
    for (manager, read) in READERS {
        if read(&root, &mut files)? {
            managers.push(manager);
        }
    }
    let mut files = files.into_files();
    let real: Vec<_> = files
        .iter()
        .filter_map(|file| root.real_path(file))
        .collect();
    files.extend(real);
    Ok(PackageFiles { managers, files })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::{PackageManager, configuration_files};

    /// Each fixture was written by its manager's own tools: `fixtures/packages/make.sh`.
    #[test]
    fn each_database_is_read_from_a_guests_root() {
        for (name, manager, some, count) in [
            ("dpkg", PackageManager::Dpkg, "/etc/kept two.conf", 4),
            ("rpm-sqlite", PackageManager::Rpm, "/etc/sample1.conf", 6),
            ("rpm-wal", PackageManager::Rpm, "/etc/sample2.conf", 6),
            ("rpm-ndb", PackageManager::Rpm, "/etc/sample1.conf", 6),
            ("rpm-bdb", PackageManager::Rpm, "/etc/sample1.conf", 6),
            ("rpm-bdb-big", PackageManager::Rpm, "/etc/sample1.conf", 6),
            ("apk", PackageManager::Apk, "/etc/motd", 4),
            ("pacman", PackageManager::Pacman, "/etc/two words.conf", 2),
        ] {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/packages");
            let vdir = fixtures.join(name);
            let root = File::open(&vdir).unwrap();
            let read = configuration_files(root.as_fd(), &vdir).unwrap();
            assert_eq!(read.managers, [manager], "{name}");
            assert_eq!(read.files.len(), count, "{name}: {:?}", read.files);
            assert!(
                read.files.contains(some.as_bytes()),
                "{name}: {:?}",
                read.files
            );
        }
    }

    #[test]
    fn a_guest_without_a_package_manager_has_none() {
        let vdir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = File::open(vdir).unwrap();
        let read = configuration_files(root.as_fd(), vdir).unwrap();
        assert!(read.managers.is_empty() && read.files.is_empty());
    }
}
