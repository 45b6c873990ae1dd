//! `--protect verity`: run by `make test-vm` in machines whose kernels have fs-verity, as root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use vhashify_testkit::built::FAULTS;
use vhashify_testkit::disturb::is_killed;
use vhashify_testkit::filesystem::{Filesystem, Kind, on_each_of};
use vhashify_testkit::moments::{assert_recovered, assert_same, equal_guests, snapshots};
use vhashify_testkit::program::{Host, output};
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, make_file};

fn on_each(test: impl Fn(&Filesystem)) {
    on_each_of(&[Kind::Ext4, Kind::Btrfs], test);
}

/// Two equal guests, with files of as many sizes as a tree of hashes has shapes.
fn unified(place: &Path, mode: &'static str) -> Host {
    let host = Host::new(place, 2).protected_by(mode);
    equal_guests(&host, 20);
    for guest in &host.guests {
        for size in [1, 4095, 4096, 4097, 524_288, 524_289, 3_000_000] {
            make_file(
                &guest.join(format!("size{size}")),
                Content { size, variant: 1 },
                PLAIN,
            );
        }
    }
    let before = snapshots(&host);
    assert!(host.run(&[])["files_unified"].as_u64() > Some(20));
    assert_same(&before, &host, "after a run");
    host
}

/// `STATX_ATTR_VERITY`.
fn is_held(path: &Path) -> bool {
    let found = statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        StatxFlags::BASIC_STATS,
    )
    .unwrap();
    found.stx_attributes.bits() & 0x0010_0000 != 0
}

fn assert_all_held(host: &Host) {
    let objects = check_store(&host.store());
    assert!(!objects.is_empty());
    for path in objects.values() {
        assert!(is_held(path), "{}", path.display());
    }
}

#[test]
#[ignore = "needs fs-verity: run in machines by make test-vm"]
fn inv4_nobody_writes_to_what_is_shared() {
    on_each(|filesystem| {
        let host = unified(filesystem.path(), "verity");
        assert_all_held(&host);
        let before = snapshots(&host);
        let path = host.guests[0].join("size4097");
        for options in [
            OpenOptions::new().write(true),
            OpenOptions::new().append(true),
            OpenOptions::new().write(true).truncate(true),
        ] {
            let refused = options.open(&path).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        }
        assert_same(&before, &host, "after attempts to write");
        // As package managers do it.
        fs::write(host.guests[0].join("new"), "newer").unwrap();
        fs::rename(host.guests[0].join("new"), &path).unwrap();
        fs::remove_file(host.guests[0].join("size1")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert_eq!(
            fs::read(host.guests[1].join("size4097")).unwrap().len(),
            4097
        );
        // Its digests are those of the bytes, for trees of every shape.
        host.call(["verify", "--deep"]);
    });
}

#[test]
#[ignore = "needs fs-verity: run in machines by make test-vm"]
fn inv4_what_an_earlier_run_shared_without_it_is_not_shared_further() {
    on_each(|filesystem| {
        let mut host = unified(filesystem.path(), "none");
        let third = host.place.join("third");
        make_file(
            &third.join("size4097"),
            Content {
                size: 4097,
                variant: 1,
            },
            PLAIN,
        );
        host.guests.push(third.clone());
        let host = host.protected_by("verity");
        let refused = output(&mut host.run_command(&[]));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(
            said.contains("in another mode") && said.contains("deunify"),
            "{said}"
        );
        assert_eq!(fs::metadata(third.join("size4097")).unwrap().nlink(), 1);
        // What it says helps.
        for guest in 0..2 {
            host.deunify(guest, &[]);
        }
        host.call(["gc"]);
        host.run(&[]);
        assert_all_held(&host);
        host.call(["verify", "--deep"]);
    });
}

#[test]
#[ignore = "needs fs-verity: run in machines by make test-vm"]
fn inv6_killed_while_an_object_is_made() {
    on_each(|filesystem| {
        for (number, stop) in [
            "enable-verity:1:kill-before",
            "enable-verity:2:kill-after",
            "object-link:2:kill-after",
        ]
        .iter()
        .enumerate()
        {
            let host =
                Host::new(&filesystem.path().join(number.to_string()), 2).protected_by("verity");
            equal_guests(&host, 5);
            let before = snapshots(&host);
            assert!(is_killed(&output(host.run_command(&[]).env(FAULTS, stop))));
            host.run(&[]);
            assert_recovered(&before, &host, stop);
            assert_all_held(&host);
            host.call(["verify", "--deep"]);
        }
    });
}

#[test]
#[ignore = "needs fs-verity: run in machines by make test-vm"]
fn inv1_a_private_copy_can_be_written_to_again() {
    on_each(|filesystem| {
        let host = unified(filesystem.path(), "verity");
        let before = snapshots(&host);
        host.deunify(0, &[]);
        assert_same(&before, &host, "after deunify");
        let path = host.guests[0].join("size4097");
        assert!(!is_held(&path));
        fs::write(&path, "written in place").unwrap();
        assert_ne!(
            fs::metadata(&path).unwrap().ino(),
            fs::metadata(host.guests[1].join("size4097")).unwrap().ino()
        );
        host.call(["gc"]);
        host.run(&[]);
        assert_eq!(fs::read(&path).unwrap(), b"written in place");
        assert_all_held(&host);
    });
}

#[test]
#[ignore = "needs fs-verity: run in machines by make test-vm"]
fn a_filesystem_without_it_is_refused() {
    let filesystem = Filesystem::new(Kind::Xfs);
    let host = Host::new(filesystem.path(), 2).protected_by("verity");
    let refused = output(&mut host.run_command(&[]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("verity: fs-verity is not enabled"), "{said}");
}
