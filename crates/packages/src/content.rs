//! One package database as bytes, wherever they come from.

use std::collections::BTreeSet;
use std::path::Path;

use super::{apk, dpkg, pacman, rpm};
use crate::PackageError;
use crate::configuration_files::{ConfigurationFiles, Excessive};

/// What the files of one package database hold.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// dpkg's `status`.
    Dpkg(&'a [u8]),
    /// rpm's `rpmdb.sqlite` and its write-ahead log, which may be empty.
    RpmSqlite {
        /// The database.
        file: &'a [u8],
        /// `rpmdb.sqlite-wal`.
        log: &'a [u8],
    },
    /// rpm's `Packages.db`.
    RpmNdb(&'a [u8]),
    /// rpm's `Packages`.
    RpmBdb(&'a [u8]),
    /// apk's `installed` and one list of protected paths, which may be empty.
    Apk {
        /// The database.
        installed: &'a [u8],
        /// A file of `etc/apk/protected_paths.d`.
        protected_paths: &'a [u8],
    },
    /// pacman's `files` of one package.
    Pacman(&'a [u8]),
}

impl Content<'_> {
    /// The configuration files that the database names, as paths that begin with `/`. No path holds a
    /// NUL, ends in `/` or is too long for the kernel, but it may hold `..`, `.` and `//`, and the guest
    /// may not have the file.
    ///
    /// `path` is the database's name for messages.
    ///
    /// # Errors
    /// The database is damaged, or asks for more than any real one does.
    pub fn configuration_files(self, path: &Path) -> Result<BTreeSet<Vec<u8>>, PackageError> {
        let mut files = ConfigurationFiles::default();
        let excessive = |Excessive(reason)| PackageError::Database {
            path: path.to_owned(),
            reason,
        };
        match self {
            Self::Dpkg(status) => dpkg::parse(status, &mut files).map_err(excessive),
            Self::RpmSqlite { file, log } => {
                rpm::parse_sqlite(path, file.to_vec(), log, &mut files)
            }
            Self::RpmNdb(file) => rpm::parse_ndb(path, file, &mut files),
            Self::RpmBdb(file) => rpm::parse_bdb(path, file, &mut files),
            Self::Apk {
                installed,
                protected_paths,
            } => {
                let mut rules = apk::Protected::defaults();
                rules.add_list(path, protected_paths)?;
                apk::parse(installed, &rules, &mut files).map_err(excessive)
            }
            Self::Pacman(text) => pacman::parse(text, &mut files).map_err(excessive),
        }?;
        Ok(files.into_files())
    }
}
