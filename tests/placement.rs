//! What inodes carry beside flags and attributes: project ids, and hints of where and how their data are to lie. They are
//! looked at with `xfs_io` and `lsattr`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::moments::{assert_same, snapshots};
use vhashify_testkit::program::Host;
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, inode, make_file};

/// What is set on an empty file, as a command of `xfs_io`.
const PLACEMENTS: [(&str, &str); 5] = [
    ("plain", "stat"),
    ("extsize", "extsize 1m"),
    ("cowextsize", "cowextsize 64k"),
    ("project", "chproj 7"),
    ("nodefrag", "chattr +f"),
];

fn xfs_io(request: &str, path: &Path) -> String {
    command(Command::new("xfs_io").args(["-c", request]).arg(path))
}

/// Project id, hints, and the flags that only XFS has.
fn placement(path: &Path) -> Vec<String> {
    let said = command(Command::new("xfs_io").args(["-r", "-c", "stat"]).arg(path));
    let wanted = |line: &&str| {
        let names = ["projid", "extsize", "cowextsize"];
        names.map(|name| format!("fsxattr.{name} =")).iter().any(|name| line.starts_with(name))
            // Their letters stand in brackets.
            || line.starts_with("fsxattr.xflags")
    };
    said.lines()
        .filter(wanted)
        .map(|line| {
            let letters = line.split_once('[').map(|(_, letters)| letters);
            letters.map_or_else(
                || line.to_owned(),
                // Without those of the mark, and of extended attributes and preallocation, which nobody sets.
                |letters| letters.replace(['s', 'A', 'X', 'p', '-', ']'], ""),
            )
        })
        .collect()
}

/// A file on which `request` was set before it got its content.
fn make(path: &Path, size: u64, request: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "").unwrap();
    xfs_io(request, path);
    let made = path.with_extension("made");
    let content = Content { size, variant: 0 };
    make_file(&made, content, PLAIN);
    fs::write(path, content.bytes()).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(PLAIN.modified()).unwrap();
    fs::set_permissions(path, fs::metadata(&made).unwrap().permissions()).unwrap();
    fs::remove_file(made).unwrap();
}

#[test]
fn inv2_hints_and_project_ids_of_xfs_stay() {
    let filesystem = Filesystem::new(Kind::Xfs);
    let host = Host::new(filesystem.path(), 3);
    // The first two guests have the same everywhere, the third one has nothing anywhere but of the plain file.
    let files: Vec<_> = host
        .guests
        .iter()
        .enumerate()
        .flat_map(|(guest, root)| {
            (0_u64..)
                .zip(PLACEMENTS)
                .map(move |(number, (name, request))| {
                    let path = root.join("dir").join(name);
                    make(
                        &path,
                        300_000 + number,
                        if guest < 2 { request } else { "stat" },
                    );
                    path
                })
        })
        .collect();
    let looks = || files.iter().map(|file| placement(file)).collect::<Vec<_>>();
    let (before, places) = (snapshots(&host), looks());
    for (number, (name, _)) in PLACEMENTS.iter().enumerate().skip(1) {
        assert_ne!(places[number], places[10 + number], "{name} was not set");
    }
    host.run(&[]);
    assert_same(&before, &host, "after a run");
    assert_eq!(looks(), places, "after a run");
    let of = |guest: usize, name: &str| inode(&host.guests[guest].join("dir").join(name));
    for (name, _) in PLACEMENTS {
        assert_eq!(of(0, name), of(1, name), "{name}: the same for both guests");
        assert_eq!(of(0, name) == of(2, name), name == "plain", "{name}");
    }
    check_store(&host.store());
    host.call(["verify", "--deep"]);
    // New files inherit what the directory says, and copies are new files.
    let directory = host.guests[1].join("dir");
    for request in ["extsize 2m", "cowextsize 128k"] {
        xfs_io(request, &directory);
    }
    host.deunify(1, &[]);
    assert_same(&before, &host, "after deunify");
    assert_eq!(looks(), places, "after deunify");
    for (name, _) in PLACEMENTS {
        assert_ne!(of(0, name), of(1, name), "{name}: an own copy");
    }
}

/// No file of another project can get a name in a directory that hands its own down.
#[test]
fn inv2_a_copy_has_the_project_that_its_directory_allows() {
    let filesystem = Filesystem::new(Kind::Xfs);
    let host = Host::new(filesystem.path(), 2);
    let file = |guest: usize| host.guests[guest].join("dir/project");
    for guest in 0..2 {
        make(&file(guest), 5000, "chproj 7");
    }
    host.run(&[]);
    assert_eq!(inode(&file(0)), inode(&file(1)));
    for request in ["chproj 9", "chattr +P"] {
        xfs_io(request, &host.guests[1].join("dir"));
    }
    let before = snapshots(&host);
    host.deunify(1, &[]);
    assert_same(&before, &host, "after deunify");
    let project = |guest: usize| placement(&file(guest))[1].clone();
    assert_eq!(
        [0, 1].map(project),
        ["fsxattr.projid = 7", "fsxattr.projid = 9"]
    );
    // Files of two projects are two files, and nothing is tried that the kernel would refuse.
    let report = host.run(&[]);
    assert_eq!(report["files_unified"], 0, "{report}");
    assert_eq!(
        report["skipped"]["cannot-be-linked"],
        serde_json::Value::Null
    );
}

#[test]
#[ignore = "with quotas, which not every kernel has: run by tests/vm"]
fn inv2_project_ids_of_ext4_stay() {
    // Not a smaller one: its blocks would be smaller than pages, and 6.1 does not mount that with fs-verity.
    let filesystem = Filesystem::new(Kind::Ext4);
    filesystem.while_unmounted(|image| {
        command(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-I", "256", "-O", "project"])
                .arg(image),
        );
    });
    let host = Host::new(&filesystem.path().join("place"), 3);
    let file = |guest: usize, name: &str| host.guests[guest].join(name);
    for (number, name) in (0_u64..).zip(["plain", "project"]) {
        for guest in 0..3 {
            let content = Content {
                size: 5000 + number,
                variant: 0,
            };
            make_file(&file(guest, name), content, PLAIN);
        }
    }
    for guest in 0..2 {
        command(
            Command::new("chattr")
                .args(["-p", "7"])
                .arg(file(guest, "project")),
        );
    }
    let project = |guest: usize| {
        let said = command(Command::new("lsattr").arg("-p").arg(file(guest, "project")));
        said.split_whitespace().next().unwrap().to_owned()
    };
    let projects = || [0, 1, 2].map(project);
    assert_eq!(projects(), ["7", "7", "0"]);
    let before = snapshots(&host);
    host.run(&[]);
    assert_same(&before, &host, "after a run");
    assert_eq!(projects(), ["7", "7", "0"], "after a run");
    let is_shared = |one, other, name| inode(&file(one, name)) == inode(&file(other, name));
    assert!(is_shared(0, 1, "project") && !is_shared(0, 2, "project"));
    assert!(is_shared(0, 1, "plain") && is_shared(0, 2, "plain"));
    host.deunify(1, &[]);
    assert_same(&before, &host, "after deunify");
    assert_eq!(projects(), ["7", "7", "0"], "after deunify");
    assert!(!is_shared(0, 1, "project"));
    host.call(["verify", "--deep"]);
}
