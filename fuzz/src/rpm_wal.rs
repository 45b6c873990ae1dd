//! `SQLite`'s write-ahead log: it is applied as `SQLite` itself applies it.
//!
//! The input is a log for the database of `fixtures/packages/rpm-wal`. Its checksums and salts are
//! made right first, or hardly any input would get past them; frames whose first salt begins with
//! 0xff are left as they are.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use vhashify_packages::Content;

use super::common::configuration_files;

static DATABASE: &[u8] = include_bytes!("../../fixtures/packages/rpm-wal/var/lib/rpm/rpmdb.sqlite");

const LOG_HEAD: usize = 32;
const FRAME_HEAD: usize = 24;

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(input: &[u8]) {
    let log = sealed(input);
    let file = DATABASE;
    let files = configuration_files(Content::RpmSqlite { file, log: &log });
    if let Ok(applied) = applied(&log) {
        let content = Content::RpmSqlite {
            file: &applied,
            log: &[],
        };
        assert_eq!(configuration_files(content), files);
    }
}

/// What `SQLite` makes of the database and the log.
fn applied(log: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    // In memory where there is such a place: nothing here has to outlive a power cut.
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() {
        tempfile::tempdir_in(memory)?
    } else {
        tempfile::tempdir()?
    };
    let path = directory.path().join("rpmdb.sqlite");
    fs::write(&path, DATABASE)?;
    fs::write(directory.path().join("rpmdb.sqlite-wal"), log)?;
    let database = Connection::open(&path)?;
    // The log's index is then kept in memory.
    database.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF")?;
    let busy: i64 = database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy != 0 {
        return Err("the log was not applied".into());
    }
    database.close().map_err(|(_, error)| error)?;
    Ok(fs::read(&path)?)
}

fn sealed(input: &[u8]) -> Vec<u8> {
    let mut log = input.to_vec();
    let Some((head, frames)) = log.split_at_mut_checked(LOG_HEAD) else {
        return log;
    };
    head[..3].copy_from_slice(&[0x37, 0x7f, 0x06]);
    head[3] = 0x82 | head[3] & 1;
    head[4..8].copy_from_slice(&3_007_000_u32.to_be_bytes());
    // The page size of the database, which stands there in two bytes.
    head[8..12].copy_from_slice(&[0, 0, DATABASE[16], DATABASE[17]]);
    let page_size = usize::from(u16::from_be_bytes([DATABASE[16], DATABASE[17]]));
    let is_big = head[3] & 1 == 1;
    let mut sum = summed((0, 0), &head[..24], is_big);
    write_sum(&mut head[24..], sum);
    for frame in frames.chunks_exact_mut(FRAME_HEAD + page_size) {
        if frame[8] == 0xff {
            continue;
        }
        // A few pages after each commit: SQLite would make the file as large as the log says.
        frame[4..7].fill(0);
        frame[7] %= 64;
        frame[8..16].copy_from_slice(&head[16..24]);
        sum = summed(sum, &frame[..8], is_big);
        sum = summed(sum, &frame[FRAME_HEAD..], is_big);
        write_sum(&mut frame[16..], sum);
    }
    log
}

/// The checksum as <https://www.sqlite.org/fileformat2.html#checksum_algorithm> gives it.
fn summed(mut sum: (u32, u32), bytes: &[u8], is_big: bool) -> (u32, u32) {
    for word in bytes.as_chunks::<4>().0.chunks_exact(2) {
        let [first, second] = [word[0], word[1]].map(|word| {
            if is_big {
                u32::from_be_bytes(word)
            } else {
                u32::from_le_bytes(word)
            }
        });
        sum.0 = sum.0.wrapping_add(first).wrapping_add(sum.1);
        sum.1 = sum.1.wrapping_add(second).wrapping_add(sum.0);
    }
    sum
}

fn write_sum(place: &mut [u8], sum: (u32, u32)) {
    place[..4].copy_from_slice(&sum.0.to_be_bytes());
    place[4..8].copy_from_slice(&sum.1.to_be_bytes());
}
