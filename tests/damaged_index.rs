//! The index with single bits of its file turned: redb's own pages are damaged then, and not only rows.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use vhashify::guest::StoreLocation;
use vhashify::identity::{Identity, Mtime};
use vhashify::index::{GuestLinks, GuestRow, Index, Update};
use vhashify::store::{ObjectName, Store};
use vhashify_sys::stamp::Stamp;

use vhashify_testkit::built;
use vhashify_testkit::numbers::Numbers;

/// Enough for tables of more than one page.
const OBJECTS: u64 = 150;

/// How redb's file is made (`docs/design.md` in its tree): pages, of which those that lead to others begin so.
const PAGE: usize = 4096;
const BRANCH: u8 = 2;

const TRIALS: u32 = 500;

/// What a run learned of these objects.
fn learned(objects: impl Iterator<Item = u64>) -> Update {
    let mut objects: Vec<(ObjectName, Stamp)> = objects.map(object).collect();
    objects.sort_unstable_by_key(|(name, _)| *name);
    let links = |guest: usize| {
        let links = (0..u32::try_from(objects.len()).unwrap()).map(|object| GuestLinks {
            object,
            count: 1,
            names: Box::default(),
        });
        let row = GuestRow {
            name: format!("guest{guest}").into_bytes(),
            vdir: format!("/vservers/guest{guest}").into_bytes(),
        };
        (row, links.collect())
    };
    let read: HashMap<u64, _> = objects
        .iter()
        .map(|(name, stamp)| {
            let inode = stamp.inode + 1_000_000;
            (inode, (Stamp { inode, ..*stamp }, name.identity))
        })
        .collect();
    Update {
        guests: (0..2).map(links).collect(),
        extents: read.keys().map(|inode| (*inode, inode * 4096)).collect(),
        read,
        disk_reads: objects
            .iter()
            .map(|(name, _)| (*name, 1_000_000_000))
            .collect(),
        run: Some("{}".to_owned()),
        objects,
    }
}

fn object(number: u64) -> (ObjectName, Stamp) {
    let identity = Identity {
        digest: *blake3::hash(&number.to_le_bytes()).as_bytes(),
        fingerprint: [7; 16],
        mtime: Mtime::Kept,
    };
    let name = ObjectName {
        identity,
        instance: 0,
    };
    let stamp = Stamp {
        inode: 1000 + number * 7,
        size: number,
        link_count: 3,
        ..Stamp::default()
    };
    (name, stamp)
}

/// As a run does: what is there is read, and what was learned is written. Damage is found where the index is
/// opened, before redb relies on what it did not check.
fn run(state: &Path, store: &Store, update: &Update) {
    let index = Index::open(state, store, |_| {}).unwrap();
    drop(index.load());
    let late = |warning| panic!("damage is found late: {warning}");
    index.finish(store, update, late).unwrap();
}

/// What `verify` would say, in rows.
fn wrong(state: &Path, store: &Store, update: &Update) -> u64 {
    let index = Index::open(state, store, |_| {}).unwrap();
    let found = index.load();
    let wanted: HashMap<ObjectName, Stamp> = update.objects.iter().copied().collect();
    let differ = wanted
        .iter()
        .filter(|(name, stamp)| found.objects.get(name) != Some(stamp))
        .count()
        + found.objects.len().abs_diff(wanted.len());
    differ as u64 + index.inconsistencies()
}

#[test]
fn inv7_a_run_after_any_bit_was_turned_the_index_says_what_is_on_the_disk() {
    let place = tempfile::tempdir_in(built::scratch()).unwrap();
    let (store, state) = (place.path().join("store"), place.path().join("state"));
    fs::create_dir(&store).unwrap();
    let store = Store::open(&StoreLocation::open(&store).unwrap()).unwrap();
    let before = learned(0..OBJECTS);
    // Some are gone, and some are new.
    let after = learned((0..OBJECTS + 40).filter(|number| number % 20 != 3));
    run(&state, &store, &before);
    let path = Index::path(&state, store.path());
    let whole = fs::read(&path).unwrap();
    let branches: Vec<usize> = (0..whole.len() / PAGE)
        .filter(|page| whole[page * PAGE] == BRANCH)
        .collect();
    // Where it says whose index it is, which is read before all else.
    let meta: Vec<usize> = (0..whole.len() - 6)
        .filter(|&at| &whole[at..at + 6] == b"format")
        .collect();
    assert!(!meta.is_empty() && branches.len() > 2, "{branches:?}");
    let mut numbers = Numbers::new(1);
    for trial in 0..TRIALS {
        let mut damaged = whole.clone();
        let at = match trial % 8 {
            0 => numbers.position(whole.len()),
            1 => meta[numbers.position(meta.len())] / PAGE * PAGE + numbers.position(40),
            // Where the keys are by which it is decided where to look.
            _ => branches[numbers.position(branches.len())] * PAGE + 8 + numbers.position(200),
        };
        damaged[at] ^= 1 << numbers.below(8);
        fs::write(&path, &damaged).unwrap();
        let update = [&before, &after][numbers.position(2)];
        run(&state, &store, update);
        let wrong = wrong(&state, &store, update);
        assert_eq!(wrong, 0, "rows, after a bit of byte {at} was turned");
    }
}
