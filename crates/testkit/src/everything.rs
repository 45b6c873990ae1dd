//! All that can be said of any guests: nothing changes, all that can be shared is, and all of it can
//! be taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::moments::{assert_same, snapshots};
use super::program::Host;
use super::snapshot::{Content as Found, Snapshot, check_store};
use super::tree::{Item, SIZE_WITH_HOLE, inode, make_guests};

/// What must agree before two files may be one: everything that the inode carries.
type Identity = (
    blake3::Hash,
    u64,
    u32,
    u32,
    u32,
    (i64, i64),
    BTreeMap<OsString, Vec<u8>>,
);

/// The inodes of each guest that may be shared, by identity.
fn shareable(host: &Host, snapshots: &[Snapshot]) -> BTreeMap<String, Vec<BTreeSet<u64>>> {
    let mut found: BTreeMap<String, Vec<BTreeSet<u64>>> = BTreeMap::new();
    for (number, (snapshot, root)) in snapshots.iter().zip(&host.guests).enumerate() {
        for (path, entry) in &snapshot.0 {
            let Found::File(size, digest) = &entry.content else {
                continue;
            };
            let has_special_bits = entry.mode & 0o7000 != 0;
            if *size == 0 || *size == SIZE_WITH_HOLE || has_special_bits {
                continue;
            }
            let identity: Identity = (
                *digest,
                *size,
                entry.mode,
                entry.owner,
                entry.group,
                entry.mtime,
                entry.attributes.clone(),
            );
            let guests = found
                .entry(format!("{identity:?}"))
                .or_insert_with(|| vec![BTreeSet::new(); host.guests.len()]);
            guests[number].insert(inode(&root.join(path)));
        }
    }
    found
}

/// What a dry run says once nobody has a file open for writing. A process that another thread of this
/// program forked while the files were made has them open until its `exec`, and that may take its
/// time on a busy machine.
fn foretell(host: &Host) -> Value {
    for _ in 0..100 {
        let foretold = host.run(&["--dry-run"]);
        if foretold["skipped"].get("open-for-writing").is_none() {
            return foretold;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("files that nobody writes to stay open for writing");
}

/// Runs, runs again, gives back, collects and verifies.
pub fn check_everything(guests: &[Vec<Item>], place: &Path, are_linked: bool) {
    let host = Host::new(place, guests.len());
    make_guests(guests, &host.guests);
    let before = snapshots(&host);

    let foretold = foretell(&host);
    assert_same(&before, &host, "after a dry run");
    assert_eq!(
        check_store(&host.store()).len(),
        0,
        "a dry run made objects"
    );

    let report = host.run(&[]);
    assert_same(&before, &host, "after a run");
    check_store(&host.store());
    for number in ["files_unified", "objects_created", "bytes_saved"] {
        assert_eq!(
            foretold[number], report[number],
            "the dry run said other {number}"
        );
    }
    if !are_linked {
        // The k-th copies of all guests that have so many meet in one inode.
        for (identity, inodes) in shareable(&host, &snapshots(&host)) {
            let most = inodes.iter().map(BTreeSet::len).max().unwrap();
            let all: BTreeSet<u64> = inodes.into_iter().flatten().collect();
            assert_eq!(
                all.len(),
                most,
                "not all that could be shared is: {identity}"
            );
        }
    }

    let again = host.run(&[]);
    assert_eq!(again["files_unified"], 0, "a second run found more to do");
    assert_same(&before, &host, "after a second run");

    host.call(["verify", "--deep"]);
    host.deunify(0, &[]);
    assert_same(&before, &host, "after deunify");
    let objects = check_store(&host.store());
    for path in before[0].0.keys() {
        let inode = inode(&host.guests[0].join(path));
        assert!(
            !objects.contains_key(&inode),
            "{} is still shared",
            path.display()
        );
    }
    host.call(["gc"]);
    for path in check_store(&host.store()).values() {
        let links = fs::metadata(path).unwrap().nlink();
        assert!(links > 1, "gc left {}", path.display());
    }
    assert_same(&before, &host, "after gc");
    host.run(&[]);
    assert_same(
        &before,
        &host,
        "after a run that shares what was given back",
    );
    host.call(["verify", "--deep"]);
}
