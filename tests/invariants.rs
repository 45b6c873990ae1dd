//! The invariants of the design, each under the number that it has there, held by the built program
//! on real filesystems.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use vhashify_testkit::everything::check_everything;
use vhashify_testkit::filesystem::{Filesystem, Kind, on_each};
use vhashify_testkit::moments::{assert_same, snapshots};
use vhashify_testkit::program::Host;
use vhashify_testkit::snapshot::{Snapshot, check_store};
use vhashify_testkit::tree::{
    self, At, Attribute, Content, Metadata, PLAIN, SIZE_WITH_HOLE, inode, make_file,
};

const SMALL: Content = Content {
    size: 100,
    variant: 0,
};

fn on_random_guests(are_linked: bool) {
    on_each(|filesystem| {
        tree::check_random(filesystem.path(), are_linked, 16, 200, |guests, place| {
            check_everything(guests, place, are_linked);
        });
    });
}

#[test]
fn inv1_inv2_inv3_inv7_random_guests_are_the_same_and_share_all_they_can() {
    on_random_guests(false);
}

#[test]
fn inv1_inv2_inv3_inv7_guests_that_were_hard_linked_to_one_another_stay_the_same() {
    on_random_guests(true);
}

/// What is the matter with the second of two files, and what its inode carries in place of [`PLAIN`].
const DIFFERENCES: [(&str, Metadata); 7] = [
    (
        "mode",
        Metadata {
            mode: 0o755,
            ..PLAIN
        },
    ),
    ("owner", Metadata { owner: 1, ..PLAIN }),
    ("group", Metadata { group: 1, ..PLAIN }),
    (
        "mtime",
        Metadata {
            mtime: PLAIN.mtime + 1,
            ..PLAIN
        },
    ),
    (
        "attribute",
        Metadata {
            attribute: Attribute::User,
            ..PLAIN
        },
    ),
    (
        "acl",
        Metadata {
            attribute: Attribute::AccessControlList,
            ..PLAIN
        },
    ),
    (
        "capability",
        Metadata {
            attribute: Attribute::Capability,
            ..PLAIN
        },
    ),
];

#[test]
fn inv2_files_that_differ_in_anything_but_their_names_are_not_shared() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        // Each pair has a size of its own, so that nothing else is a partner for it.
        let pair = |number: u64, name: &str, variant, metadata| {
            let size = SMALL.size + number;
            let content = |variant| Content { size, variant };
            make_file(&host.guests[0].join(name), content(0), PLAIN);
            make_file(&host.guests[1].join(name), content(variant), metadata);
        };
        for (number, (name, metadata)) in (2..).zip(DIFFERENCES) {
            pair(number, name, 0, metadata);
        }
        pair(1, "content", 1, PLAIN);
        // And one that is shared, so that it is seen that the run would have shared the others.
        pair(0, "nothing", 0, PLAIN);
        let before = snapshots(&host);
        let report = host.run(&[]);
        assert_same(&before, &host, "after a run");
        let is_shared = |name: &str| {
            let [one, other] = [0, 1].map(|guest| inode(&host.guests[guest].join(name)));
            one == other
        };
        for name in DIFFERENCES.map(|(name, _)| name) {
            assert!(!is_shared(name), "differs in {name}");
        }
        assert!(!is_shared("content"), "differs in content");
        assert!(is_shared("nothing"));
        assert_eq!(report["files_unified"], 1);
        assert_eq!(report["objects_created"], 1);
        assert_eq!(check_store(&host.store()).len(), 1);
    });
}

#[test]
fn inv2_ignore_mtime_gives_up_the_mtime_and_nothing_else() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        make_file(&host.guests[0].join("file"), SMALL, PLAIN);
        let later = Metadata {
            mtime: PLAIN.mtime + 5,
            ..PLAIN
        };
        make_file(&host.guests[1].join("file"), SMALL, later);
        let report = host.run(&["--ignore-mtime"]);
        assert_eq!(report["files_unified"], 1);
        let inodes: BTreeSet<u64> = host
            .guests
            .iter()
            .map(|guest| inode(&guest.join("file")))
            .collect();
        assert_eq!(inodes.len(), 1);
        host.call(["verify", "--deep"]);
    });
}

#[test]
fn inv3_a_link_group_is_shared_whole_and_stays_one_file() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            make_file(&guest.join("bin/tool"), SMALL, PLAIN);
            fs::create_dir_all(guest.join("lib")).unwrap();
            fs::hard_link(guest.join("bin/tool"), guest.join("lib/other-name")).unwrap();
            fs::hard_link(guest.join("bin/tool"), guest.join("third")).unwrap();
        }
        let before = snapshots(&host);
        assert_eq!(host.run(&[])["files_unified"], 3);
        assert_same(&before, &host, "after a run");
        let names = ["bin/tool", "lib/other-name", "third"];
        let inodes: BTreeSet<u64> = host
            .guests
            .iter()
            .flat_map(|guest| names.map(|name| inode(&guest.join(name))))
            .collect();
        assert_eq!(inodes.len(), 1);
    });
}

#[test]
fn inv3_a_name_that_a_guest_adds_or_removes_later_is_noticed() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 3);
        for guest in &host.guests {
            make_file(&guest.join("one"), SMALL, PLAIN);
        }
        host.run(&[]);
        // Another name of the shared file, and a second file of the same identity.
        fs::hard_link(host.guests[0].join("one"), host.guests[0].join("added")).unwrap();
        for guest in &host.guests[..2] {
            make_file(&guest.join("second"), SMALL, PLAIN);
        }
        let before = snapshots(&host);
        assert_eq!(host.run(&[])["files_unified"], 1);
        assert_same(&before, &host, "a name was added");
        fs::remove_file(host.guests[0].join("one")).unwrap();
        let before = snapshots(&host);
        host.run(&[]);
        assert_same(&before, &host, "a name was removed");
        // The excluded directory holds the guest's last name of the object.
        let excluded = host.guests[0].join("excluded");
        fs::create_dir(&excluded).unwrap();
        fs::rename(host.guests[0].join("added"), excluded.join("moved")).unwrap();
        make_file(&host.guests[0].join("third"), SMALL, PLAIN);
        let list = host.place.join("list");
        fs::write(&list, "/excluded\n").unwrap();
        let before = snapshots(&host);
        host.run(&["--exclude-from", list.to_str().unwrap()]);
        assert_same(&before, &host, "a name stands where the scan does not look");
    });
}

#[test]
fn inv3_more_names_than_an_ext4_inode_takes_open_the_next_instance() {
    // An inode takes 65,000 links (EXT4_LINK_MAX): two of these groups and the store's name.
    const NAMES: u32 = 32_000;
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 4);
    for guest in &host.guests {
        make_file(&guest.join("0"), SMALL, PLAIN);
        for name in 1..NAMES {
            fs::hard_link(guest.join("0"), guest.join(name.to_string())).unwrap();
        }
    }
    let before = snapshots(&host);
    let report = host.run(&[]);
    assert_same(&before, &host, "after a run");
    assert_eq!(report["objects_created"], 2);
    assert_eq!(report["files_unified"], 2 * NAMES);
    assert_eq!(check_store(&host.store()).len(), 2);
    assert_eq!(host.run(&[])["files_unified"], 0);
}

#[test]
fn inv3_a_group_with_a_name_outside_of_what_is_scanned_is_left_alone() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            make_file(&guest.join("file"), SMALL, PLAIN);
        }
        fs::hard_link(host.guests[0].join("file"), host.place.join("outside")).unwrap();
        let before = snapshots(&host);
        let report = host.run(&[]);
        assert_eq!(report["files_unified"], 0);
        assert_eq!(report["skipped"]["linked-elsewhere"], 1);
        assert_same(&before, &host, "after a run");
    });
}

#[test]
fn inv4_empty_files_and_files_with_holes_are_never_shared() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            make_file(&guest.join("empty"), Content { size: 0, ..SMALL }, PLAIN);
            let image = Content {
                size: SIZE_WITH_HOLE,
                ..SMALL
            };
            make_file(&guest.join("image"), image, PLAIN);
        }
        let report = host.run(&[]);
        assert_eq!(report["files_unified"], 0);
        assert_eq!(report["skipped"]["empty"], 2);
        assert_eq!(report["skipped"]["sparse"], 2);
    });
}

/// dpkg makes the old file 0600 before it removes it, so that nobody keeps a setuid program by a hard
/// link; rpm takes the bits away.
#[test]
fn inv4_files_whose_mode_package_managers_take_away_are_never_shared() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            for mode in [0o4755, 0o2755, 0o1644] {
                let metadata = Metadata { mode, ..PLAIN };
                make_file(&guest.join(format!("{mode:o}")), SMALL, metadata);
            }
        }
        let report = host.run(&[]);
        assert_eq!(report["files_unified"], 0);
        assert_eq!(report["skipped"]["setuid-setgid-or-sticky"], 6);
        let other = Snapshot::of(&host.guests[1]);
        for entry in fs::read_dir(&host.guests[0]).unwrap() {
            let nobody = fs::Permissions::from_mode(0o600);
            fs::set_permissions(entry.unwrap().path(), nobody).unwrap();
        }
        other.assert_same(&Snapshot::of(&host.guests[1]), "after another's upgrade");
    });
}

#[test]
fn inv7_an_index_of_a_guest_that_was_restored_links_nothing_wrongly() {
    // The backup has the same names, sizes and times, and even the same inode numbers, as a copy
    // of a whole filesystem has, but other content.
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 3);
        let third = host.guests[2].clone();
        let content = |variant| Content { variant, ..SMALL };
        let make = |guest: &Path, of_unified, of_private| {
            make_file(&guest.join("unified"), content(of_unified), PLAIN);
            make_file(&guest.join("private"), content(of_private), PLAIN);
        };
        for guest in &host.guests[..2] {
            make(guest, 0, 1);
        }
        // Differs from its twins in content alone, so that it is read, remembered and private.
        make(&third, 2, 3);
        host.run(&[]);
        for (name, variant) in [("unified", 4), ("private", 1)] {
            let path = third.join(name);
            let (was, content) = (inode(&path), content(variant).bytes());
            // In place: the inode stays, and its mtime is put back.
            fs::write(&path, content).unwrap();
            let file = fs::File::open(&path).unwrap();
            let mtime = std::time::Duration::from_nanos(PLAIN.mtime);
            file.set_modified(std::time::SystemTime::UNIX_EPOCH + mtime)
                .unwrap();
            assert_eq!(inode(&path), was);
        }
        let before = snapshots(&host);
        // The private file has twins now, and the other one still has none.
        assert_eq!(host.run(&[])["files_unified"], 1);
        assert_same(&before, &host, "after the guest was restored");
        host.call(["verify", "--deep"]);
    });
}

#[test]
fn inv7_an_index_that_is_lost_or_damaged_costs_nothing_but_time() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 3);
        for guest in &host.guests {
            for directory in 0..5 {
                for name in 0..7 {
                    let content = Content {
                        size: 50 + u64::from(name),
                        variant: directory,
                    };
                    make_file(&guest.join(At(directory, name).path()), content, PLAIN);
                }
            }
        }
        // Two of three are unified; the third comes when the index is broken.
        let mut two = host.clone();
        two.guests.truncate(2);
        two.run(&[]);
        let before = snapshots(&host);
        let index: PathBuf = fs::read_dir(host.state())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|end| end == "redb"))
            .expect("an index");
        let whole = fs::read(&index).unwrap();
        let middle = whole.len() / 2;
        let mut flipped = whole.clone();
        for at in (0..flipped.len()).step_by(97) {
            flipped[at] ^= 0x41;
        }
        for damaged in [&whole[..0], &whole[..middle], b"no index", &flipped] {
            fs::write(&index, damaged).unwrap();
            host.run(&[]);
            assert_same(&before, &host, "with a damaged index");
            check_store(&host.store());
            host.deunify(2, &[]);
        }
        fs::remove_file(&index).unwrap();
        assert_eq!(host.run(&[])["files_unified"], 35);
        assert_same(&before, &host, "without an index");
        host.call(["verify", "--deep"]);
    });
}
