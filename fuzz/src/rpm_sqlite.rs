//! rpm's `SQLite` database: the schema and the pages are a guest's, and a log that does not fit
//! changes nothing.

use vhashify_packages::Content;

use super::common::configuration_files;

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(file: &[u8]) {
    let files = configuration_files(Content::RpmSqlite { file, log: &[] });
    // No database begins as a log does.
    let with_log = Content::RpmSqlite { file, log: file };
    assert_eq!(configuration_files(with_log), files);
}
