//! One package's header: whatever kind of database holds it, the same files come out.
//!
//! The input is a header, which is put into a database of each kind.

use rusqlite::{Connection, MAIN_DB};
use vhashify_packages::Content;

use super::common::configuration_files;

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(header: &[u8]) {
    let from_ndb = configuration_files(Content::RpmNdb(&ndb(header)));
    let little = bdb(header, u32::to_le_bytes, u16::to_le_bytes);
    assert_eq!(configuration_files(Content::RpmBdb(&little)), from_ndb);
    let big = bdb(header, u32::to_be_bytes, u16::to_be_bytes);
    assert_eq!(configuration_files(Content::RpmBdb(&big)), from_ndb);
    let file = sqlite(header).expect("a table of one row");
    let log = &[];
    let content = Content::RpmSqlite { file: &file, log };
    assert_eq!(configuration_files(content), from_ndb);
}

fn words(words: &[usize]) -> Vec<u8> {
    let word = |word: &usize| u32::try_from(*word).expect("small").to_le_bytes();
    words.iter().flat_map(word).collect()
}

/// One page of slots, the first of which points to the blob in the second page.
fn ndb(header: &[u8]) -> Vec<u8> {
    let blocks = (16 + header.len() + 12).div_ceil(16);
    let mut file = [b"RpmP".as_slice(), &words(&[0, 1, 1, 2, 0, 0, 0])].concat();
    file.extend([b"Slot".as_slice(), &words(&[1, 4096 / 16, blocks])].concat());
    while file.len() < 4096 {
        file.extend([b"Slot".as_slice(), &words(&[0, 0, 0])].concat());
    }
    file.extend([b"BlbS".as_slice(), &words(&[1, 1, header.len()]), header].concat());
    file.resize(4096 + 16 * blocks, 0);
    file
}

/// A page of meta data, a page of one pair, and the value in a chain of pages.
fn bdb(header: &[u8], long: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
    const PAGE: usize = 512;
    const HEAD: usize = 26;
    let mut meta = [0; PAGE];
    meta[12..16].copy_from_slice(&long(0x0006_1561));
    meta[20..24].copy_from_slice(&long(512));
    let mut pair = [0; PAGE];
    pair[20..22].copy_from_slice(&short(2));
    pair[25] = 13;
    pair[HEAD..HEAD + 2].copy_from_slice(&short(507));
    pair[HEAD + 2..HEAD + 4].copy_from_slice(&short(495));
    pair[507..].copy_from_slice(&[1, 1, 0, 0, 0]);
    pair[495] = 3;
    pair[499..503].copy_from_slice(&long(if header.is_empty() { 0 } else { 2 }));
    let length = u32::try_from(header.len()).expect("small");
    pair[503..507].copy_from_slice(&long(length));

    let mut file = [meta, pair].concat();
    let parts = header.chunks(PAGE - HEAD);
    let last = parts.len() + 1;
    for (number, part) in (2..).zip(parts) {
        let mut page = [0; PAGE];
        let next = if number == last { 0 } else { number + 1 };
        page[16..20].copy_from_slice(&long(u32::try_from(next).expect("small")));
        page[22..24].copy_from_slice(&short(u16::try_from(part.len()).expect("small")));
        page[25] = 7;
        page[HEAD..HEAD + part.len()].copy_from_slice(part);
        file.extend(page);
    }
    file
}

fn sqlite(header: &[u8]) -> rusqlite::Result<Vec<u8>> {
    let mut database = Connection::open_in_memory()?;
    database.execute_batch(
        "CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT,blob BLOB NOT NULL)",
    )?;
    database.execute("INSERT INTO Packages VALUES (1, ?)", [header])?;
    Ok(database.serialize(MAIN_DB)?.to_vec())
}
