//! rpm's `SQLite` database: the schema and the pages are a guest's, and a log that does not fit
//! changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vhashify_fuzz::configuration_files;
use vhashify_packages::Content;

fuzz_target!(|file: &[u8]| {
    let files = configuration_files(Content::RpmSqlite { file, log: &[] });
    // No database begins as a log does.
    let with_log = Content::RpmSqlite { file, log: file };
    assert_eq!(configuration_files(with_log), files);
});
