//! rpm's `SQLite` database, read from a copy in memory.
//!
//! If `SQLite` opened the guest's file, it would create files in the guest, trust its locks, and play back
//! its rollback journal, which can make it delete any file of the host. So this module reads the file
//! and its log, [`wal`] applies the log, and `SQLite` gets bytes only.
//!
//! The schema is as hostile: `Packages` must be a plain table, and a statement stops after a fixed number
//! of steps. One step can read a row of any length, and rows may share their pages, so all rows
//! together may be no longer than the file.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, MAIN_DB};

use super::{Damage, header, wal};
use crate::PackageError;
use crate::configuration_files::ConfigurationFiles;
use crate::root::{DatabaseFile, Root};

/// The largest database after its log is applied.
const LARGEST: usize = 512 << 20;
/// How often a database and its log are read, if rpm changes them meanwhile.
const ATTEMPTS: usize = 5;
/// The least limit for the length of a value. `SQLite`'s own texts are shorter, but can be longer than a
/// short database.
const LEAST_LENGTH_LIMIT: usize = 64 << 10;
/// `SQLite` calls its progress handler after so many steps of its virtual machine. A real database takes
/// a handful of steps for each package.
const STEPS_A_CALL: i32 = 100_000;
const MOST_CALLS: u32 = 1_000;
/// The two bytes of the head that say whether the database has a log (2) or not (1).
const VERSIONS: std::ops::Range<usize> = 18..20;

/// Reads the database at `name` and its log, so that one fits the other.
pub(super) fn read_both(
    root: &Root<'_>,
    name: &Path,
) -> Result<Option<(DatabaseFile, Vec<u8>)>, PackageError> {
    let log_name = name.with_extension("sqlite-wal");
    for _ in 0..ATTEMPTS {
        let Some(file) = root.read(name)? else {
            return Ok(None);
        };
        let log = root
            .read(&log_name)?
            .map(|log| log.bytes)
            .unwrap_or_default();
        // If the database changed, rpm in the guest may have moved the log into it between the two reads.
        if root.version(name)? == Some(file.version) {
            return Ok(Some((file, log)));
        }
    }
    let path = root.host_path(name);
    Err(PackageError::Database {
        path,
        reason: "it keeps changing while it is read",
    })
}

pub(super) fn parse(
    mut file: Vec<u8>,
    log: &[u8],
    files: &mut ConfigurationFiles,
) -> Result<(), Damage> {
    wal::apply(&mut file, log, LARGEST);
    // SQLite creates an empty file before it writes the first page.
    if file.is_empty() {
        return Ok(());
    }
    if let Some(versions) = file.get_mut(VERSIONS) {
        versions.fill(1);
    }
    let database = open(&file).map_err(Damage::Sqlite)?;
    let length = file.len();
    drop(file);
    read_packages(&database, length, files)
}

fn open(file: &[u8]) -> rusqlite::Result<Connection> {
    let mut database = Connection::open_in_memory()?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    // No row is longer than the file that holds it.
    database.set_limit(
        Limit::SQLITE_LIMIT_LENGTH,
        i32::try_from(file.len().max(LEAST_LENGTH_LIMIT)).unwrap_or(i32::MAX),
    )?;
    database.deserialize_read_exact(MAIN_DB, file, file.len(), true)?;
    database.pragma_update(None, "cell_size_check", true)?;
    let mut calls = 0;
    database.progress_handler(
        STEPS_A_CALL,
        Some(move || {
            calls += 1;
            calls > MOST_CALLS
        }),
    )?;
    Ok(database)
}

/// Parses the headers in all rows, which together may be no longer than `bytes_left`.
fn read_packages(
    database: &Connection,
    mut bytes_left: usize,
    files: &mut ConfigurationFiles,
) -> Result<(), Damage> {
    // A view or a virtual table of this name, or a generated column, would run the guest's code.
    let is_table = "SELECT count(*) FROM pragma_table_list \
                    WHERE schema = 'main' AND name = 'Packages' AND type = 'table'";
    let is_stored = "SELECT count(*) FROM pragma_table_xinfo('Packages') \
                     WHERE name = 'blob' AND hidden = 0";
    for question in [is_table, is_stored] {
        let count: i64 = database
            .query_row(question, [], |row| row.get(0))
            .map_err(Damage::Sqlite)?;
        if count != 1 {
            return Err(Damage::Format(
                "it has no table Packages with a column blob",
            ));
        }
    }
    let mut statement = database
        .prepare("SELECT blob FROM Packages")
        .map_err(Damage::Sqlite)?;
    let mut rows = statement.query([]).map_err(Damage::Sqlite)?;
    while let Some(row) = rows.next().map_err(Damage::Sqlite)? {
        let value = row.get_ref(0).map_err(Damage::Sqlite)?;
        let not_a_blob = |_| Damage::Format("a row of Packages holds no blob");
        let blob = value.as_blob().map_err(not_a_blob)?;
        bytes_left = bytes_left
            .checked_sub(blob.len())
            .ok_or(Damage::Format("its rows share their pages"))?;
        header::parse(blob, files)?;
    }
    Ok(())
}
