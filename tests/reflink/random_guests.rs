//! Random guests stay as they are, and whatever two of them have in common lies in one place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vhashify_testkit::moments::snapshots;
use vhashify_testkit::snapshot::{Content as Found, check_store};
use vhashify_testkit::tree::{self, Item, SIZE_WITH_HOLE};

use super::blocks::{assert_in_one_place, blocks};
use super::{all_inodes, assert_same, host, on_each};

fn check_everything(guests: &[Vec<Item>], place: &Path) {
    let host = host(place, guests.len());
    tree::make_guests(guests, &host.guests);
    let (before, inodes) = (snapshots(&host), all_inodes(&host));
    let ctimes = || {
        let files = inodes.keys();
        let stamp = |path: &PathBuf| fs::symlink_metadata(path).unwrap();
        files
            .map(|path| (stamp(path).ctime(), stamp(path).ctime_nsec()))
            .collect::<Vec<_>>()
    };
    let ctimes_before = ctimes();

    let foretold = host.run(&["--dry-run"]);
    let report = host.run(&[]);
    assert_same(&before, &host, "after a run");
    assert_eq!(all_inodes(&host), inodes, "a name leads to another inode");
    assert_eq!(ctimes(), ctimes_before, "an inode was changed");
    assert!(check_store(&host.store()).is_empty(), "there are objects");
    for number in ["files_unified", "bytes_saved", "disk_bytes_saved"] {
        assert_eq!(
            foretold[number], report[number],
            "the dry run said other {number}"
        );
    }

    // Whatever two guests have in common lies in one place.
    let mut classes: BTreeMap<String, Vec<(usize, PathBuf)>> = BTreeMap::new();
    for (number, (snapshot, root)) in before.iter().zip(&host.guests).enumerate() {
        for (path, entry) in &snapshot.0 {
            let Found::File(size, digest) = entry.content else {
                continue;
            };
            if size == 0 || size == SIZE_WITH_HOLE || blocks(&root.join(path)).is_none() {
                continue;
            }
            let identity = format!(
                "{digest} {size} {} {} {} {:?} {:?}",
                entry.mode, entry.owner, entry.group, entry.mtime, entry.attributes
            );
            let class = classes.entry(identity).or_default();
            class.push((number, root.join(path)));
        }
    }
    for class in classes.into_values() {
        if class.iter().any(|(guest, _)| *guest != class[0].0) {
            let paths: Vec<PathBuf> = class.into_iter().map(|(_, path)| path).collect();
            assert_in_one_place(&paths);
        }
    }

    let again = host.run(&[]);
    assert_eq!(again["files_unified"], 0, "a second run found more to do");
    assert_eq!(again["disk_bytes_saved"], 0);
    let anew = host.run(&["--refresh"]);
    assert_eq!(
        anew["files_unified"], 0,
        "without the index it found more to do"
    );
    host.call(["verify", "--deep"]);
    host.deunify(0, &[]);
    host.call(["gc"]);
    assert_same(&before, &host, "after all commands");
    assert_eq!(all_inodes(&host), inodes);
}

#[test]
fn inv1_inv2_inv3_inv4_random_guests_stay_as_they_are_and_lie_in_one_place() {
    on_each(|filesystem| {
        for are_linked in [false, true] {
            tree::check_random(filesystem.path(), are_linked, 8, 50, check_everything);
        }
    });
}
