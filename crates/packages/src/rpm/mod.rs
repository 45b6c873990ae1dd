//! rpm: a database of one of three kinds holds one header for each package.
//!
//! | file | kind | since |
//! | --- | --- | --- |
//! | `rpmdb.sqlite` | [`sqlite`] | Fedora 33, RHEL 9 |
//! | `Packages.db` | [`ndb`] | SUSE |
//! | `Packages` | [`bdb`], a Berkeley DB hash | everything before |
//!
//! All three hold the same [`header`] blobs. An upgraded guest can have an old database beside the new
//! one. Both are read: to exclude a file too many costs little.

mod bdb;
mod header;
mod ndb;
mod sqlite;
mod wal;

use std::path::Path;

use crate::PackageError;
use crate::configuration_files::{ConfigurationFiles, Excessive};
use crate::root::Root;

/// Where distributions keep the database: traditionally, on Fedora 36 and later and SUSE, and with ostree.
const DIRECTORIES: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];

/// Why a database could not be read.
#[derive(Debug)]
enum Damage {
    Format(&'static str),
    Sqlite(rusqlite::Error),
}

impl From<Excessive> for Damage {
    fn from(Excessive(reason): Excessive) -> Self {
        Self::Format(reason)
    }
}

impl Damage {
    fn of(self, path: &Path) -> PackageError {
        let path = path.to_owned();
        match self {
            Self::Format(reason) => PackageError::Database { path, reason },
            Self::Sqlite(source) => PackageError::Sqlite { path, source },
        }
    }
}

pub(super) fn read(root: &Root<'_>, files: &mut ConfigurationFiles) -> Result<bool, PackageError> {
    // Often the directories are symbolic links to one another.
    let mut seen = Vec::new();
    for directory in DIRECTORIES.map(Path::new) {
        if let Some((file, log)) = sqlite::read_both(root, &directory.join("rpmdb.sqlite"))?
            && !seen.contains(&file.version.inode)
        {
            seen.push(file.version.inode);
            parse_sqlite(&file.path, file.bytes, &log, files)?;
        }
        for (name, parse) in [
            ("Packages.db", parse_ndb as Parser),
            ("Packages", parse_bdb),
        ] {
            if let Some(file) = root.read(&directory.join(name))?
                && !seen.contains(&file.version.inode)
            {
                seen.push(file.version.inode);
                parse(&file.path, &file.bytes, files)?;
            }
        }
    }
    Ok(!seen.is_empty())
}

type Parser = fn(&Path, &[u8], &mut ConfigurationFiles) -> Result<(), PackageError>;

/// Parses an `SQLite` database and its log. `path` is its name for messages, here and below.
pub(super) fn parse_sqlite(
    path: &Path,
    file: Vec<u8>,
    log: &[u8],
    files: &mut ConfigurationFiles,
) -> Result<(), PackageError> {
    sqlite::parse(file, log, files).map_err(|damage| damage.of(path))
}

pub(super) fn parse_ndb(
    path: &Path,
    file: &[u8],
    files: &mut ConfigurationFiles,
) -> Result<(), PackageError> {
    ndb::parse(file, files).map_err(|damage| damage.of(path))
}

pub(super) fn parse_bdb(
    path: &Path,
    file: &[u8],
    files: &mut ConfigurationFiles,
) -> Result<(), PackageError> {
    bdb::parse(file, files).map_err(|damage| damage.of(path))
}

/// The 32-bit little-endian number at `offset`.
fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    word(bytes, offset).map(u32::from_le_bytes)
}

/// The 32-bit big-endian number at `offset`.
fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    word(bytes, offset).map(u32::from_be_bytes)
}

fn word(bytes: &[u8], offset: usize) -> Option<[u8; 4]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// A number read from a file as an offset or length. It fits: `usize` has at least 32 bits on Linux.
fn position(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
