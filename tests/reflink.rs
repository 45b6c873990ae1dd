//! `--protect reflink`: guests share extents and no inode, held by the built program on real XFS and
//! Btrfs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vhashify_testkit::built;
use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each_of};
use vhashify_testkit::moments::{equal_guests, snapshots};
use vhashify_testkit::program::{Host, json, output, spawn};
use vhashify_testkit::snapshot::{Content as Found, Snapshot, check_store, paths};
use vhashify_testkit::tree::{
    self, Content, Item, Metadata, PLAIN, SIZE_WITH_HOLE, inode, make_file,
};

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

/// Where a file lies on the disk, as `filefrag` tells it; `None` where it has no blocks.
fn blocks(path: &Path) -> Option<Vec<(u64, u64, u64)>> {
    let told = command(Command::new("filefrag").args(["-s", "-v"]).arg(path));
    let extents = told.lines().filter_map(|line| {
        // `   0:        0..      73:         42..       115:     74:             last,shared,eof`
        let (number, rest) = line.split_once(':')?;
        number.trim().parse::<u32>().ok()?;
        let numbers: Vec<u64> = rest
            .split([':', '.'])
            .filter_map(|word| word.trim().parse().ok())
            .collect();
        let has_no_blocks = rest.contains("inline") || rest.contains("delalloc");
        Some((!has_no_blocks).then(|| (numbers[0], numbers[2], numbers[4])))
    });
    let mut merged: Vec<(u64, u64, u64)> = Vec::new();
    for extent in extents {
        let (offset, at, length) = extent?;
        match merged.last_mut() {
            Some(last) if last.0 + last.2 == offset && last.1 + last.2 == at => last.2 += length,
            _ => merged.push((offset, at, length)),
        }
    }
    (!merged.is_empty()).then_some(merged)
}

fn assert_in_one_place(paths: &[PathBuf]) {
    let first = blocks(&paths[0]);
    assert!(first.is_some(), "{} has no blocks", paths[0].display());
    for path in paths {
        assert_eq!(blocks(path), first, "{} lies elsewhere", path.display());
    }
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

#[test]
fn inv5_what_a_process_writes_while_runs_go_on_is_in_the_file_afterwards() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 2);
        let (is_over, made) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut shared = 0;
        std::thread::scope(|scope| {
            for (number, guest) in host.guests.iter().enumerate() {
                for thread in 0..8 {
                    let (is_over, made) = (&is_over, &made);
                    scope.spawn(move || {
                        for round in 0_u64.. {
                            if is_over.load(Ordering::Relaxed) {
                                break;
                            }
                            write_and_look(guest, thread, round + number as u64);
                            made.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
            let begun = Instant::now();
            // On a busy machine a run takes long, and most files have been written to meanwhile.
            let is_enough = |shared| shared > 10 && begun.elapsed() > Duration::from_secs(5);
            while !is_enough(shared) && begun.elapsed() < Duration::from_mins(2) {
                shared += host.run(&[])["files_unified"].as_u64().unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(made.load(Ordering::Relaxed) > 50);
        assert!(shared > 10, "runs shared {shared} files only");
    });
}

/// Makes a file that has a twin in the other guest, writes into it while it may be being shared,
/// and looks whether it holds what it wrote and nothing else.
fn write_and_look(guest: &Path, thread: u64, round: u64) {
    let path = guest.join(format!("file{thread}"));
    let new = guest.join(format!("new{thread}"));
    let content = Content {
        size: 20_000,
        variant: 0,
    };
    make_file(&new, content, PLAIN);
    fs::rename(&new, &path).unwrap();
    // So long that many a run has found its twin, and reads or shares them, when it is written to.
    std::thread::sleep(Duration::from_millis(200 + round * 67 % 1500));
    let record = format!("{} wrote {round} here", guest.display());
    let at = 30 + round * 499 % 19_000;
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    std::thread::sleep(Duration::from_millis(round * 3 % 20));
    file.write_all_at(record.as_bytes(), at).unwrap();
    (&file).write_all(b"and at the beginning").unwrap();
    drop(file);
    std::thread::sleep(Duration::from_millis(round * 5 % 40));
    let mut wanted = content.bytes();
    let at = usize::try_from(at).unwrap();
    wanted[at..at + record.len()].copy_from_slice(record.as_bytes());
    wanted[..20].copy_from_slice(b"and at the beginning");
    assert!(fs::read(&path).unwrap() == wanted, "{}", path.display());
}

#[test]
fn inv6_killed_at_any_moment() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 3);
        equal_guests(&host, 100);
        for guest in &host.guests {
            for number in 0..60 {
                let size = 20_000 + number;
                make_file(
                    &guest.join(format!("large{number}")),
                    Content { size, variant: 0 },
                    PLAIN,
                );
            }
        }
        let (before, inodes) = (snapshots(&host), all_inodes(&host));
        let mut killed = 0;
        for round in 0..25_u64 {
            let mut run = spawn(&mut host.run_command(&["--refresh"]));
            std::thread::sleep(Duration::from_micros(round * 7919 % 60_000));
            run.kill().unwrap();
            killed += u32::from(!run.wait().unwrap().success());
            assert_same(&before, &host, "after SIGKILL");
        }
        assert!(killed > 10, "most runs were over before they were killed");
        host.run(&[]);
        assert_same(&before, &host, "after the last run");
        assert_eq!(all_inodes(&host), inodes);
        assert_in_one_place(&in_each(&host, "large0"));
    });
}
