//! Applies `SQLite`'s write-ahead log to a copy of the database in memory.
//!
//! rpm uses the log, and its last writes may be only there. `SQLite` applies a log only to a file in a
//! directory that it can write, never to a database in memory.
//!
//! ```text
//! log     magic | version | page size | checkpoint | salt | salt | sum | sum      (32 bytes)
//! frame   page number | pages after commit, or 0 | salt | salt | sum | sum | the page
//! ```
//!
//! Numbers are big-endian; the magic gives the byte order of the words for the checksum. The log ends at
//! the first frame with wrong salts, a wrong running checksum or the impossible page number 0: it is left
//! from an earlier log, or was never finished. Of the frames before it, those after the last commit
//! are dropped.

use super::{be32, le32, position};

const LOG_HEAD: usize = 32;
const FRAME_HEAD: usize = 24;
const MAGIC: u32 = 0x377f_0682;

/// Applies the committed frames of `log` to `database`. A log with a wrong head, or one that makes the
/// database longer than `largest`, changes nothing.
pub(super) fn apply(database: &mut Vec<u8>, log: &[u8], largest: usize) {
    let Some((head, frames)) = log.split_at_checked(LOG_HEAD) else {
        return;
    };
    let Some(magic) = be32(head, 0) else { return };
    let Some(page_size) = be32(head, 8).map(position) else {
        return;
    };
    if magic & !1 != MAGIC || !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
        return;
    }
    let mut sum = Sum {
        read_word: if magic & 1 == 1 { be32 } else { le32 },
        value: (0, 0),
    };
    sum.add(&head[..24]);
    if !sum.agrees(&head[24..]) {
        return;
    }

    let frames: Vec<_> = frames
        .chunks_exact(FRAME_HEAD + page_size)
        .map(|frame| frame.split_at(FRAME_HEAD))
        .take_while(|(frame_head, page)| {
            sum.add(&frame_head[..8]);
            sum.add(page);
            be32(frame_head, 0) != Some(0)
                && frame_head[8..16] == head[16..24]
                && sum.agrees(&frame_head[16..])
        })
        .collect();
    let pages_after = |frame_head: &[u8]| be32(frame_head, 4).map_or(0, position);
    let Some(last) = frames
        .iter()
        .rposition(|(frame_head, _)| pages_after(frame_head) != 0)
    else {
        return;
    };
    let size = pages_after(frames[last].0).saturating_mul(page_size);
    if size > largest {
        return;
    }
    database.resize(size, 0);
    for (frame_head, page) in &frames[..=last] {
        // Pages are numbered from 1. A later commit truncated those beyond the end.
        let start = be32(frame_head, 0)
            .and_then(|number| position(number).checked_sub(1)?.checked_mul(page_size));
        let place = start.and_then(|start| database.get_mut(start..)?.get_mut(..page_size));
        if let Some(place) = place {
            place.copy_from_slice(page);
        }
    }
}

/// The running checksum over the words of the log.
struct Sum {
    read_word: fn(&[u8], usize) -> Option<u32>,
    value: (u32, u32),
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks_exact(8) {
            let (first, second) = self.value;
            let word = |offset| (self.read_word)(pair, offset).unwrap_or(0);
            let first = first.wrapping_add(word(0)).wrapping_add(second);
            self.value = (first, second.wrapping_add(word(4)).wrapping_add(first));
        }
    }

    /// Whether the two big-endian words at the start of `bytes` are this sum.
    fn agrees(&self, bytes: &[u8]) -> bool {
        be32(bytes, 0) == Some(self.value.0) && be32(bytes, 4) == Some(self.value.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 512;
    const LARGEST: usize = 1 << 20;

    /// A log whose frames are given as page number, pages after commit, and the byte that fills the page.
    fn log(frames: &[(u32, u32, u8)]) -> Vec<u8> {
        let words = |words: &[u32]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_be_bytes()).collect()
        };
        let mut sum = Sum {
            read_word: le32,
            value: (0, 0),
        };
        let mut log = words(&[MAGIC, 3_007_000, 512, 0, 7, 8]);
        sum.add(&log);
        log.extend(words(&[sum.value.0, sum.value.1]));
        for &(number, pages, byte) in frames {
            let head = words(&[number, pages, 7, 8]);
            sum.add(&head[..8]);
            sum.add(&[byte; PAGE]);
            log.extend([head, words(&[sum.value.0, sum.value.1])].concat());
            log.extend([byte; PAGE]);
        }
        log
    }

    #[test]
    fn the_log_ends_where_sqlite_ends_it() {
        for (frames, pages) in [
            (&[(1, 0, 1), (2, 2, 2)][..], &[1, 2][..]),
            // Not committed.
            (&[(1, 2, 1), (2, 0, 2)], &[1, 9]),
            // No page has the number 0: there the log ends.
            (&[(1, 2, 1), (0, 2, 2), (2, 2, 2)], &[1, 9]),
            // The later commit truncates page 3.
            (&[(3, 3, 3), (1, 1, 1)], &[1]),
        ] {
            let mut database = vec![9; 2 * PAGE];
            apply(&mut database, &log(frames), LARGEST);
            let found: Vec<_> = database.chunks(PAGE).map(|page| page[0]).collect();
            assert_eq!(found, pages, "{frames:?}");
        }
    }
}
