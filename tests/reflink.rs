//! `--protect reflink`: guests share extents and no inode, held by the built program on real XFS and
//! Btrfs.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`blocks`] | where a file lies on the disk |
//! | [`random_guests`] | guests of all kinds of files |
//! | [`interrupted`] | writers beside runs, and runs that are killed |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod blocks;
mod interrupted;
mod random_guests;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{XattrFlags, setxattr};
use vhashify_testkit::built;
use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each_of};
use vhashify_testkit::moments::snapshots;
use vhashify_testkit::program::{Host, is_guarded, json, output, refused};
use vhashify_testkit::snapshot::{Snapshot, check_store, paths};
use vhashify_testkit::tree::{Content, Metadata, PLAIN, inode, make_file};

use blocks::{assert_in_one_place, blocks};

/// Larger than what Btrfs keeps among its metadata (`max_inline`, 2,048 bytes).
const LARGE: Content = Content {
    size: 300_000,
    variant: 0,
};

fn on_each(test: impl Fn(&Filesystem)) {
    on_each_of(&Kind::WITH_SHARED_EXTENTS, test);
}

fn host(place: &Path, guests: usize) -> Host {
    Host::new(place, guests).protected_by("reflink")
}

fn in_each(host: &Host, name: &str) -> Vec<PathBuf> {
    host.guests.iter().map(|guest| guest.join(name)).collect()
}

/// Every path with its inode: nothing is ever replaced.
fn all_inodes(host: &Host) -> BTreeMap<PathBuf, u64> {
    let paths = host.guests.iter().flat_map(|guest| paths(guest));
    paths.map(|path| (path.clone(), inode(&path))).collect()
}

/// Bytes of the disk that are in use.
fn used(filesystem: &Filesystem) -> u64 {
    rustix::fs::syncfs(File::open(filesystem.path()).unwrap()).unwrap();
    let found = rustix::fs::statvfs(filesystem.path()).unwrap();
    (found.f_blocks - found.f_bfree) * found.f_frsize
}

fn assert_same(before: &[Snapshot], host: &Host, when: &str) {
    for (number, (before, after)) in before.iter().zip(snapshots(host)).enumerate() {
        before.assert_same(&after, &format!("{when}, guest {number}"));
    }
}

#[test]
fn path_by_path_only_files_at_the_same_path_lie_in_one_place() {
    on_each(|filesystem| {
        let place = filesystem.path();
        let at = |below: &str| place.join(below);
        for name in ["web", "base", "mail"] {
            let conf = at("conf").join(name);
            fs::create_dir_all(conf.join("apps/vunify")).unwrap();
            fs::create_dir_all(at(name).join("usr")).unwrap();
            symlink(at(name), conf.join("vdir")).unwrap();
        }
        for (number, name) in [("00", "base"), ("01", "mail")] {
            let link = at("conf/web/apps/vunify").join(format!("refserver.{number}"));
            symlink(Path::new("../../..").join(name), link).unwrap();
        }
        let stores = at("conf/.defaults/apps/vunify/hash");
        fs::create_dir_all(&stores).unwrap();
        fs::create_dir(at("hash")).unwrap();
        symlink(at("hash"), stores.join("root")).unwrap();
        let files = [
            "web/usr/x",
            "base/usr/x",
            "base/usr/other",
            "web/usr/alone",
            "mail/usr/x",
        ]
        .map(at);
        for file in &files {
            make_file(file, LARGE, PLAIN);
        }
        rustix::fs::syncfs(File::open(place).unwrap()).unwrap();
        let inodes = files.each_ref().map(|file| inode(file));

        let mut run = Command::new(built::vserver());
        run.arg("--config-dir").arg(at("conf"));
        run.args(["web", "unify", "--protect", "reflink", "--state-dir"]);
        run.arg(at("state"));
        let report = json(run);
        assert_eq!(report["files_unified"], 1, "{report}");
        assert_eq!(files.each_ref().map(|file| inode(file)), inodes);
        assert_in_one_place(&files[..2]);
        for other in &files[2..] {
            assert_ne!(blocks(other), blocks(&files[0]), "{}", other.display());
        }
    });
}

#[test]
fn the_savings_that_are_reported_are_free_on_the_disk() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 4);
        // Longer than one call of the kernel, and not whole blocks.
        let size = (40 << 20) + 123;
        for guest in &host.guests {
            make_file(&guest.join("large"), Content { size, variant: 0 }, PLAIN);
        }
        let before = used(filesystem);
        let report = host.run(&[]);
        let freed = before.saturating_sub(used(filesystem));
        assert_eq!(report["files_unified"], 3);
        assert_eq!(report["bytes_saved"], 3 * size);
        let said = report["disk_bytes_saved"].as_u64().unwrap();
        assert_eq!(said, 3 * size.next_multiple_of(4096));
        // The index, and what the filesystem needs for its accounts.
        assert!(freed.abs_diff(said) < 8 << 20, "{freed} free, {said} said");
        assert_in_one_place(&in_each(&host, "large"));

        let store = host.call(["report"])["stores"][0].clone();
        assert_eq!(store["store"]["saved_bytes"], said);
        for guest in store["guests"].as_array().unwrap() {
            let bytes = |of| guest[of].as_u64().unwrap();
            assert_eq!(bytes("bytes"), said / 3);
            assert_eq!(bytes("shared_bytes"), said / 3);
            assert_eq!(bytes("private_bytes"), 0);
            assert_eq!(bytes("fair_share_bytes"), said / 3 / 4);
        }
    });
}

#[test]
fn a_second_run_opens_nothing_and_finds_nothing_to_do() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 3);
        for guest in &host.guests {
            make_file(&guest.join("file"), LARGE, PLAIN);
        }
        // What was changed in the moment of the run's beginning is read again.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(host.run(&[])["files_unified"], 2);
        let again = host.run(&[]);
        assert_eq!(
            (&again["files_hashed"], &again["files_unified"]),
            (&0.into(), &0.into())
        );
        // A later guest joins the others where they are.
        let mut more = host.clone();
        more.guests.push(host.place.join("later"));
        make_file(&more.guests[3].join("file"), LARGE, PLAIN);
        let report = more.run(&[]);
        assert_eq!(
            (&report["files_hashed"], &report["files_unified"]),
            (&1.into(), &1.into())
        );
        assert_in_one_place(&in_each(&more, "file"));
    });
}

#[test]
fn clones_and_a_lost_index_are_not_saved_a_second_time() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 2);
        let [one, other] = [&host.guests[0], &host.guests[1]].map(|guest| guest.join("file"));
        make_file(&one, LARGE, PLAIN);
        command(
            Command::new("cp")
                .args(["-a", "--reflink=always"])
                .args([&one, &other]),
        );
        for _ in 0..2 {
            let report = host.run(&[]);
            assert_eq!(report["files_unified"], 0);
            assert_eq!(report["disk_bytes_saved"], 0);
            fs::remove_dir_all(host.state()).unwrap();
        }
    });
}

#[test]
fn compressed_files_of_btrfs_lie_in_one_place_too() {
    let filesystem = Filesystem::with_options(Kind::Btrfs, 512 << 20, "compress-force=zstd");
    let host = host(filesystem.path(), 3);
    // Several compressed extents, which hold 128 KiB at most.
    for guest in &host.guests {
        make_file(&guest.join("file"), LARGE, PLAIN);
    }
    let report = host.run(&[]);
    assert_eq!(report["files_unified"], 2);
    let said = 2 * LARGE.size.next_multiple_of(4096);
    assert_eq!(report["disk_bytes_saved"], said);
    assert_in_one_place(&in_each(&host, "file"));
    assert_eq!(host.run(&["--refresh"])["files_unified"], 0);
    let store = host.call(["report"])["stores"][0]["store"].clone();
    assert_eq!(store["saved_bytes"], said);
}

#[test]
fn inv4_what_one_guest_writes_or_sets_no_other_feels() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 3);
        for guest in &host.guests {
            make_file(&guest.join("file"), LARGE, PLAIN);
        }
        assert_eq!(host.run(&[])["files_unified"], 2);
        let others = [&host.guests[1], &host.guests[2]].map(|guest| Snapshot::of(guest));
        let file = OpenOptions::new()
            .write(true)
            .open(host.guests[0].join("file"))
            .unwrap();
        file.write_all_at(b"written in place", 150_000).unwrap();
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        for (before, guest) in others.iter().zip(&host.guests[1..]) {
            before.assert_same(&Snapshot::of(guest), "after another guest wrote");
            let file = File::open(guest.join("file")).unwrap();
            let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
            rustix::fs::flock(&file, lock).unwrap();
        }
        drop(file);
        host.run(&[]);
        let written = fs::read(host.guests[0].join("file")).unwrap();
        assert_eq!(&written[150_000..150_016], b"written in place");
        assert_in_one_place(&in_each(&host, "file")[1..]);
    });
}

#[test]
fn inv2_ignore_mtime_gives_up_nothing() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 2);
        make_file(&host.guests[0].join("file"), LARGE, PLAIN);
        let later = Metadata {
            mtime: PLAIN.mtime + 5,
            ..PLAIN
        };
        make_file(&host.guests[1].join("file"), LARGE, later);
        let before = snapshots(&host);
        let done = output(&mut host.run_command(&["--ignore-mtime"]));
        assert!(done.status.success(), "{done:?}");
        assert_eq!(done.stderr, b"", "{done:?}");
        assert_same(&before, &host, "after a run");
        assert_in_one_place(&in_each(&host, "file"));
    });
}

#[test]
fn what_cannot_be_shared_is_left_alone_and_counted() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 2);
        for guest in &host.guests {
            make_file(
                &guest.join("small"),
                Content {
                    size: 100,
                    variant: 0,
                },
                PLAIN,
            );
            make_file(&guest.join("large"), LARGE, PLAIN);
        }
        let writer = OpenOptions::new()
            .append(true)
            .open(host.guests[0].join("large"))
            .unwrap();
        let report = host.run(&[]);
        assert_eq!(report["skipped"]["open-for-writing"], 1);
        // XFS has a block for it, Btrfs keeps it among its metadata.
        let (shared, inline) = match filesystem.kind {
            Kind::Btrfs => (0, Some(2)),
            _ => (1, None),
        };
        assert_eq!(report["files_unified"], shared);
        assert_eq!(report["skipped"]["without-extents"].as_u64(), inline);
        drop(writer);
        assert_eq!(host.run(&[])["files_unified"], 1);
    });
}

#[test]
fn objects_of_earlier_runs_are_told_of_and_can_be_given_up() {
    on_each(|filesystem| {
        let mut host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            make_file(&guest.join("file"), LARGE, PLAIN);
        }
        let before = snapshots(&host);
        host.run(&[]);
        host.protect = "reflink";
        let done = output(&mut host.run_command(&[]));
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(
            said.contains("2 files still are links") && said.contains("deunify"),
            "{said}"
        );
        for guest in 0..2 {
            host.deunify(guest, &[]);
        }
        host.call(["gc"]);
        let done = output(&mut host.run_command(&[]));
        assert_eq!(String::from_utf8(done.stderr).unwrap(), "");
        assert_in_one_place(&in_each(&host, "file"));
        assert_same(&before, &host, "after all");
    });
}

#[test]
fn auto_takes_reflink_where_the_filesystem_can() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2).protected_by("auto");
        for guest in &host.guests {
            make_file(&guest.join("file"), LARGE, PLAIN);
        }
        let report = host.run(&[]);
        assert_eq!(report["protection"], serde_json::json!(["reflink"]));
        assert_in_one_place(&in_each(&host, "file"));
        assert!(check_store(&host.store()).is_empty());
    });
}

/// After a change of the kernel, say: what guests shared under the guard is no less shared then, and nobody refuses their
/// writes. A run does not add to that, and says so; `--protect none` says that somebody knows.
#[test]
fn inv4_a_store_that_counts_on_the_guard_is_refused_where_that_does_not_hold() {
    if is_guarded() {
        return;
    }
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for path in in_each(&host, "file") {
            make_file(&path, LARGE, PLAIN);
        }
        host.run(&[]);
        let attribute = "trusted.vhashify.guarded";
        setxattr(host.store(), attribute, b"1", XattrFlags::empty()).unwrap();
        host.run(&[]);
        let host = host.protected_by("reflink");
        for options in [[].as_slice(), &["-n"]] {
            let said = refused(&mut host.run_command(options), 3);
            assert!(
                said.contains("under the guard") && said.contains("--protect none"),
                "{said}"
            );
        }
        // Nothing of it is left.
        host.deunify(0, &[]);
        host.deunify(1, &[]);
        host.call(["gc"]);
        host.run(&[]);
    });
}
