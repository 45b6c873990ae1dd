//! A guest's administrator who works against the host while runs go on: no file outside of the
//! guest is ever read, linked or replaced, and no run hangs or stops on what stands there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use support::filesystem::{command, on_each};
use support::program::{Host, output};
use support::snapshot::{Snapshot, check_store};
use support::tree::{Content, PLAIN, make_file};

const FILES: u64 = 20;
const LONGEST_RUN: Duration = Duration::from_mins(1);

fn content(number: u64) -> Content {
    Content {
        size: 300 + number,
        variant: 0,
    }
}

/// Files that have twins in every directory made by this.
fn tempting(directory: &Path) {
    for number in 0..FILES {
        make_file(
            &directory.join(format!("file{number}")),
            content(number),
            PLAIN,
        );
    }
}

/// What must not change outside of the guests: everything, also inode numbers and link counts.
fn outside(directory: &Path) -> Vec<(PathBuf, u64, u64, i64, i64)> {
    support::snapshot::paths(directory)
        .into_iter()
        .map(|path| {
            let found = fs::symlink_metadata(&path).unwrap();
            let (inode, links) = (found.ino(), found.nlink());
            (path, inode, links, found.ctime(), found.ctime_nsec())
        })
        .collect()
}

/// Runs go on for some seconds while `attack` is done again and again in the first guest.
fn under_attack(host: &Host, attack: impl Fn() + Sync) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                attack();
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let run = Instant::now();
            let output = output(&mut host.run_command(&[]));
            assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
            assert!(run.elapsed() < LONGEST_RUN, "the run hung");
            tempting_again(host);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// The second guest's files are new ones again, so that there is something to do.
fn tempting_again(host: &Host) {
    let directory = host.guests[1].join("swapped");
    fs::remove_dir_all(&directory).unwrap();
    tempting(&directory);
}

fn exchange(one: &Path, other: &Path) {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn inv4_a_directory_that_becomes_a_symbolic_link_leads_nowhere() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 3);
        let secret = filesystem.path().join("secret");
        tempting(&secret);
        for guest in &host.guests {
            tempting(&guest.join("swapped"));
        }
        // Not by way of the host's root, which is another mount.
        symlink("../secret", host.guests[0].join("link")).unwrap();
        let before = outside(&secret);
        let (one, other) = (host.guests[0].join("swapped"), host.guests[0].join("link"));
        under_attack(&host, || exchange(&one, &other));
        assert_eq!(outside(&secret), before, "the host's files were touched");
        check_store(&host.store());
    });
}

#[test]
fn inv4_a_directory_that_is_moved_out_of_the_guest_is_not_followed() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 3);
        for guest in &host.guests {
            tempting(&guest.join("deep/swapped"));
            tempting(&guest.join("swapped"));
        }
        let elsewhere = filesystem.path().join("elsewhere");
        let inside = host.guests[0].join("deep/swapped");
        under_attack(&host, || {
            fs::rename(&inside, &elsewhere).unwrap();
            fs::rename(&elsewhere, &inside).unwrap();
        });
        // A run may have replaced names in it while it was a part of the guest; what they hold
        // is the same.
        for number in 0..FILES {
            let found = fs::read(inside.join(format!("file{number}"))).unwrap();
            assert_eq!(found, content(number).bytes());
        }
        check_store(&host.store());
    });
}

#[test]
fn inv4_fifos_and_devices_in_the_place_of_files_are_not_opened() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 3);
        for guest in &host.guests {
            tempting(&guest.join("swapped"));
        }
        let fifo = host.guests[0].join("fifo");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let disk = host.guests[0].join("tty");
        let tty = rustix::fs::makedev(5, 0);
        rustix::fs::mknodat(CWD, &disk, FileType::CharacterDevice, Mode::RUSR, tty).unwrap();
        let file = |number: u64| host.guests[0].join(format!("swapped/file{number}"));
        under_attack(&host, || {
            for number in 0..FILES {
                exchange(&file(number), if number % 2 == 0 { &fifo } else { &disk });
                std::thread::sleep(Duration::from_micros(200));
                exchange(&file(number), if number % 2 == 0 { &fifo } else { &disk });
            }
        });
        assert!(fs::symlink_metadata(&fifo).unwrap().nlink() == 1);
        check_store(&host.store());
    });
}

#[test]
fn inv1_temporary_names_that_are_taken_beforehand_cost_a_skip_and_nothing_else() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            tempting(guest);
        }
        let temporary = |name: &str| {
            let digest = blake3::hash(name.as_bytes()).to_hex();
            format!(".vhashify-{}", &digest[..32])
        };
        // In both guests, because only one of them has its names replaced.
        for guest in &host.guests {
            fs::create_dir(guest.join(temporary("file0"))).unwrap();
            symlink("/etc/passwd", guest.join(temporary("file1"))).unwrap();
            let fifo = guest.join(temporary("file2"));
            rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        }
        let before: Vec<Snapshot> = host
            .guests
            .iter()
            .map(|guest| Snapshot::of(guest))
            .collect();
        let report = host.run(&[]);
        assert_eq!(report["files_unified"], FILES - 3);
        assert_eq!(report["skipped"]["temporary-name-taken"], 3);
        for (before, guest) in before.iter().zip(&host.guests) {
            before.assert_same(&Snapshot::of(guest), "names were taken");
        }
    });
}

#[test]
fn inv4_what_is_mounted_in_a_guest_is_never_entered() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        let secret = filesystem.path().join("secret");
        tempting(&secret);
        for guest in &host.guests {
            tempting(&guest.join("files"));
        }
        let before = outside(&secret);
        let (directory, file) = (
            host.guests[0].join("mnt"),
            host.guests[0].join("files/file3"),
        );
        fs::create_dir(&directory).unwrap();
        let mounts = [(&secret, &directory), (&secret.join("file3"), &file)];
        for (what, place) in mounts {
            command(Command::new("mount").arg("--bind").args([what, place]));
        }
        let report = host.run(&[]);
        for (_, place) in mounts {
            command(Command::new("umount").arg(place));
        }
        assert_eq!(report["skipped"]["mount-point"], 2);
        assert_eq!(report["files_unified"], FILES - 1);
        assert_eq!(outside(&secret), before, "what was mounted was touched");
    });
}

#[test]
fn inv1_files_deeper_than_any_path_are_shared_like_others() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            let mut directory: OwnedFd = File::open(guest).unwrap().into();
            // 40 × 200 bytes: twice PATH_MAX.
            for _ in 0..40 {
                let name = "d".repeat(200);
                rustix::fs::mkdirat(&directory, &name, Mode::RWXU).unwrap();
                let flags = OFlags::DIRECTORY | OFlags::RDONLY;
                directory = rustix::fs::openat(&directory, &name, flags, Mode::empty()).unwrap();
            }
            let file = guest.join("file");
            make_file(&file, content(0), PLAIN);
            rustix::fs::renameat(CWD, &file, directory.as_fd(), "file").unwrap();
        }
        let report = host.run(&[]);
        assert_eq!(report["files_unified"], 1);
        assert_eq!(report["errors"].as_array().unwrap().len(), 0);
        assert_eq!(host.deunify(0, &[])["files_deunified"], 1);
        for guest in &host.guests {
            remove_deep(guest);
        }
    });
}

/// `rm -r` of what no path reaches; the filesystem goes away with the test, but is unmounted first.
fn remove_deep(guest: &Path) {
    command(Command::new("rm").arg("-rf").arg(guest));
}

#[test]
fn inv1_a_directory_of_very_many_names_is_walked_whole() {
    let names: u32 = if std::env::var("VHASHIFY_TORTURE").is_ok_and(|value| value == "long") {
        1_000_000
    } else {
        50_000
    };
    let kind = support::filesystem::Kind::Ext4;
    let filesystem = support::filesystem::Filesystem::with_options(kind, 8 << 30, "");
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        make_file(&guest.join("many/file"), content(1), PLAIN);
        let directory = File::open(guest.join("many")).unwrap();
        let empty = File::create(guest.join("many/empty")).unwrap();
        // Names of one file as long as it takes them, which is quicker than new files.
        let mut current = empty;
        for number in 0..names {
            if number % 60_000 == 59_999 {
                current = File::create(guest.join(format!("many/empty{number}"))).unwrap();
            }
            let name = format!("name-{number}");
            rustix::fs::linkat(&current, c"", &directory, name, AtFlags::EMPTY_PATH).unwrap();
        }
    }
    let report = host.run(&[]);
    assert!(report["files_scanned"].as_u64().unwrap() >= 2 * u64::from(names));
    assert_eq!(report["files_unified"], 1);
}
