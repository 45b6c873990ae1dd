//! What a guest's administrator may leave in the way of a run: no file outside of the guest is ever
//! read, linked or replaced, and no run hangs or stops on what stands there. The races are in
//! `torture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use vhashify_testkit::bait::{FILES, content, outside, tempting};
use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each};
use vhashify_testkit::program::Host;
use vhashify_testkit::snapshot::Snapshot;
use vhashify_testkit::tree::{Content, PLAIN, make_file};

#[test]
fn inv1_names_that_look_like_temporary_ones_of_earlier_versions_cost_nothing() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            tempting(guest);
        }
        let temporary = |name: &str| {
            let digest = blake3::hash(name.as_bytes()).to_hex();
            format!(".vhashify-{}", &digest[..32])
        };
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
        assert_eq!(report["files_unified"], FILES);
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
    let kind = Kind::Ext4;
    let filesystem = Filesystem::with_options(kind, 8 << 30, "");
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

/// A name beside a number is the inode of that number on the same filesystem, and a subvolume has
/// numbers of its own.
#[test]
fn inv3_a_file_of_a_subvolume_with_the_inode_number_of_an_object_is_no_object() {
    let filesystem = Filesystem::new(Kind::Btrfs);
    let host = Host::new(filesystem.path(), 2);
    let shared = Content {
        size: 5000,
        variant: 0,
    };
    for guest in &host.guests {
        make_file(&guest.join("shared"), shared, PLAIN);
    }
    assert_eq!(host.run(&[])["files_unified"], 1);
    let object = fs::metadata(host.guests[0].join("shared")).unwrap().ino();
    let subvolume = host.guests[0].join("subvolume");
    command(
        Command::new("btrfs")
            .args(["-q", "subvolume", "create"])
            .arg(&subvolume),
    );
    // Numbers are given out in turn.
    let private = subvolume.join("private");
    loop {
        fs::write(&private, "private").unwrap();
        match fs::metadata(&private).unwrap().ino() {
            inode if inode == object => break,
            inode => assert!(inode < object, "the numbers have gone by: {inode}"),
        }
        fs::remove_file(&private).unwrap();
    }
    let report = host.run(&["--dry-run"]);
    assert_eq!(report["files_scanned"], 3);
    assert_eq!(report["bytes_scanned"], 2 * shared.size + 7);
    host.run(&[]);
    assert_eq!(fs::read(&private).unwrap(), b"private");
}
