//! Random guests: what is shared path by path is all that may be, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use vhashify_testkit::filesystem::on_each;
use vhashify_testkit::program::json as run_json;
use vhashify_testkit::snapshot::{Content, Snapshot, check_store};
use vhashify_testkit::tree::{Item, SIZE_WITH_HOLE, check_random, inode, make_guests};

use super::super::tree::Tree;
use super::{refer, run, unify};

/// One file of one guest: its names, and all that its inode carries.
struct File {
    guest: usize,
    names: BTreeSet<PathBuf>,
    identity: String,
    may_be_shared: bool,
}

/// The files of each guest, by inode.
fn by_inode(roots: &[PathBuf], snapshots: &[Snapshot]) -> BTreeMap<(usize, u64), File> {
    let mut found: BTreeMap<(usize, u64), File> = BTreeMap::new();
    for (guest, (snapshot, root)) in snapshots.iter().zip(roots).enumerate() {
        for (path, entry) in &snapshot.0 {
            let Content::File(size, _) = entry.content else {
                continue;
            };
            let is_special = entry.mode & 0o7000 != 0;
            let mut of_inode = entry.clone();
            of_inode.first_name = PathBuf::new();
            let file = found
                .entry((guest, inode(&root.join(path))))
                .or_insert_with(|| File {
                    guest,
                    names: BTreeSet::new(),
                    identity: format!("{of_inode:?}"),
                    may_be_shared: size > 0 && size != SIZE_WITH_HOLE && !is_special,
                });
            file.names.insert(path.clone());
        }
    }
    found
}

/// A dry run once nobody has a file open for writing: a process that another thread of this program
/// forked while the files were made has them open until its `exec`.
fn foretell(tree: &Tree) -> Value {
    let begun = Instant::now();
    loop {
        let foretold = run(tree, "guest0", &["-n"]);
        if foretold["skipped"].get("open-for-writing").is_none() {
            return foretold;
        }
        let waited = begun.elapsed();
        assert!(
            waited < Duration::from_secs(20),
            "files that nobody writes to stay open"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What is in one inode after a run: at most one file of the first guest and one at a path of it.
fn check_shares(before: &BTreeMap<(usize, u64), File>, roots: &[PathBuf]) {
    let mut now: BTreeMap<u64, Vec<&File>> = BTreeMap::new();
    for file in before.values() {
        let name = file.names.first().unwrap();
        let found = now.entry(inode(&roots[file.guest].join(name)));
        found.or_default().push(file);
    }
    for shared in now.values().filter(|shared| shared.len() > 1) {
        assert_eq!(shared.len(), 2, "three files are one");
        let [one, other] = [shared[0], shared[1]];
        assert_eq!(one.guest, 0, "two reference guests share");
        assert_ne!(other.guest, 0, "two files of one guest are one");
        assert_eq!(one.identity, other.identity);
        assert!(!one.names.is_disjoint(&other.names), "{:?}", other.names);
    }
    // And nothing that could be shared is left.
    let alone: Vec<&File> = now
        .values()
        .filter(|shared| shared.len() == 1 && shared[0].may_be_shared)
        .map(|shared| shared[0])
        .collect();
    for own in alone.iter().filter(|file| file.guest == 0) {
        let is_partner = |theirs: &&&File| {
            theirs.guest > 0
                && theirs.identity == own.identity
                && !theirs.names.is_disjoint(&own.names)
        };
        let left = alone.iter().find(is_partner);
        assert!(left.is_none(), "{:?} is not shared", own.names);
    }
}

fn check_random_guests(guests: &[Vec<Item>], place: &Path, are_linked: bool) {
    let tree = Tree::new(place);
    tree.value(".defaults/apps/vunify/exclude", "# nothing\n");
    let names: Vec<String> = (0..guests.len())
        .map(|number| format!("guest{number}"))
        .collect();
    let roots: Vec<PathBuf> = names.iter().map(|name| tree.guest(name)).collect();
    for name in &names[1..] {
        refer(&tree, "guest0", name, name);
    }
    make_guests(guests, &roots);
    let snapshots = || -> Vec<Snapshot> { roots.iter().map(|root| Snapshot::of(root)).collect() };
    let before = snapshots();
    let assert_same = |when: &str| {
        for (before, after) in before.iter().zip(snapshots()) {
            before.assert_same(&after, when);
        }
    };
    let files = by_inode(&roots, &before);

    let foretold = foretell(&tree);
    assert_same("after a dry run");
    let report = run(&tree, "guest0", &[]);
    assert_same("after a run");
    for number in ["files_unified", "objects_created", "bytes_saved"] {
        assert_eq!(foretold[number], report[number], "{number}");
    }
    if !are_linked {
        check_shares(&files, &roots);
    }
    assert_eq!(run(&tree, "guest0", &[])["files_unified"], 0);
    assert_eq!(run(&tree, "guest0", &["--refresh"])["files_unified"], 0);
    assert_same("after more runs");
    run_json(tree.command(["verify", "--deep"]));

    run_json(unify(&tree, "guest0", ["-R"]));
    assert_same("after -R");
    let objects = check_store(&tree.store());
    for path in before[0].0.keys() {
        let inode = inode(&roots[0].join(path));
        assert!(!objects.contains_key(&inode), "{}", path.display());
    }
    run(&tree, "guest0", &[]);
    assert_same("after a run again");
}

#[test]
fn inv1_inv2_inv3_random_guests_stay_as_they_are_and_share_at_the_same_path_alone() {
    on_each(|filesystem| {
        for are_linked in [false, true] {
            check_random(
                filesystem.path(),
                are_linked,
                8,
                100,
                move |guests, place| check_random_guests(guests, place, are_linked),
            );
        }
    });
}
