//! rpm's `SQLite` database, read from a copy in memory.
//!
//! Opening the guest's file itself would have `SQLite` create files in the guest, trust its locks,
//! and play back its rollback journal, which can name a file anywhere on the host to be deleted.
//! So the file and its log are read, the log is applied by [`wal`], and `SQLite` sees
//! bytes only. The schema is the guest's and not to be trusted either: `Packages` has to be a
//! plain table, and the statement stops after a fixed number of steps. One step can read a row of
//! any length, and nothing in the format keeps rows from sharing their pages, so all rows together
//! may be no longer than the file.

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
/// How often a database and its log are read again because they changed meanwhile.
const ATTEMPTS: usize = 5;
/// Below this length nothing is worth a limit of its own; `SQLite`'s own texts are shorter.
const SHORT: usize = 64 << 10;
/// Steps of `SQLite`'s machine between two looks at the clock, so to speak, and how many looks.
/// A real database takes a handful of steps a package.
const STEPS_A_LOOK: i32 = 100_000;
const MOST_LOOKS: u32 = 1_000;
/// The two bytes of the head that say whether there is a log (2) or not (1).
const VERSIONS: std::ops::Range<usize> = 18..20;

/// Reads the database at `name` and its log, as they were at one moment.
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
        // rpm in the guest may just have moved the log into the database.
        if root.version(name)? == Some(file.version) {
            return Ok(Some((file, log)));
        }
    }
    let path = root.name(name);
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
    // SQLite creates the file before it writes the first page.
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
    // No row can be larger than the file that holds it.
    database.set_limit(
        Limit::SQLITE_LIMIT_LENGTH,
        i32::try_from(file.len().max(SHORT)).unwrap_or(i32::MAX),
    )?;
    database.deserialize_read_exact(MAIN_DB, file, file.len(), true)?;
    database.pragma_update(None, "cell_size_check", true)?;
    let mut looks = 0;
    database.progress_handler(
        STEPS_A_LOOK,
        Some(move || {
            looks += 1;
            looks > MOST_LOOKS
        }),
    )?;
    Ok(database)
}

/// `left` is how long all rows together may be.
fn read_packages(
    database: &Connection,
    mut left: usize,
    files: &mut ConfigurationFiles,
) -> Result<(), Damage> {
    // A view or a virtual table of this name, or a computed column, would run the guest's code.
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
        left = left
            .checked_sub(blob.len())
            .ok_or(Damage::Format("its rows share their pages"))?;
        header::parse(blob, files)?;
    }
    Ok(())
}
