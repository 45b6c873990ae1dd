//! Directories that take names and give none back (`chattr +a`), or neither (`chattr +i`): what lies in them is left as
//! it is, by a reason of its own, and no temporary name is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use vhashify_testkit::filesystem::{command, on_each};
use vhashify_testkit::moments::{is_reserved, snapshots};
use vhashify_testkit::program::{Host, output};
use vhashify_testkit::snapshot::{check_store, paths};
use vhashify_testkit::tree::{Content, PLAIN, inode, make_file};
use vhashify_testkit::work::assert_tidy;

const CONTENT: Content = Content {
    size: 5000,
    variant: 0,
};

/// A directory that refuses; dropping it lets it be removed.
struct Refusing<'a>(&'a Path, char);

impl<'a> Refusing<'a> {
    fn new(directory: &'a Path, flag: char) -> Self {
        command(
            Command::new("chattr")
                .arg(format!("+{flag}"))
                .arg(directory),
        );
        Self(directory, flag)
    }
}

impl Drop for Refusing<'_> {
    fn drop(&mut self) {
        command(
            Command::new("chattr")
                .arg(format!("-{}", self.1))
                .arg(self.0),
        );
    }
}

fn temporary_names(guest: &Path) -> Vec<PathBuf> {
    let all = paths(guest).into_iter();
    all.filter(|path| is_reserved(path)).collect()
}

/// Two guests alike: a file, and a link group of which one name lies in a directory of its own.
fn guests(place: &Path) -> (Host, PathBuf) {
    let host = Host::new(place, 2);
    for guest in &host.guests {
        make_file(&guest.join("logs/file"), CONTENT, PLAIN);
        let group = Content {
            variant: 1,
            ..CONTENT
        };
        make_file(&guest.join("a/group"), group, PLAIN);
        fs::hard_link(guest.join("a/group"), guest.join("logs/group")).unwrap();
    }
    let refusing = host.guests[1].join("logs");
    (host, refusing)
}

#[test]
fn inv6_a_run_leaves_them_alone_and_nothing_behind() {
    on_each(|filesystem| {
        for flag in ['a', 'i'] {
            let (host, logs) = guests(&filesystem.path().join(flag.to_string()));
            let before = snapshots(&host);
            {
                let _refusing = Refusing::new(&logs, flag);
                for options in [&["-n"][..], &[], &["--refresh"]] {
                    let report = host.run(options);
                    let skipped = &report["skipped"]["append-only-or-immutable-directory"];
                    assert_eq!(*skipped, 3, "+{flag} {options:?}: {report}");
                    assert_eq!(report["files_unified"], 0, "+{flag} {options:?}: {report}");
                }
                assert_eq!(temporary_names(&host.guests[1]), [""; 0].map(PathBuf::from));
                assert_tidy(&host.store(), "nothing is left");
            }
            for (before, now) in before.iter().zip(snapshots(&host)) {
                before.assert_same(&now, "after runs");
            }
            // Once it gives names back, it is a directory like others.
            assert_eq!(host.run(&[])["files_unified"], 3);
            check_store(&host.store());
        }
    });
}

#[test]
fn inv6_deunify_leaves_them_shared_says_so_and_leaves_nothing_behind() {
    on_each(|filesystem| {
        for flag in ['a', 'i'] {
            let (host, logs) = guests(&filesystem.path().join(flag.to_string()));
            assert_eq!(host.run(&[])["files_unified"], 3);
            let (file, group) = (logs.join("file"), host.guests[1].join("a/group"));
            let shared = [inode(&file), inode(&group)];
            let before = snapshots(&host);
            {
                let _refusing = Refusing::new(&logs, flag);
                let mut deunify = host.command(["deunify", "--manually"]);
                let output = output(deunify.arg(&host.guests[1]));
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(1), "{said}");
                assert!(said.contains("append-only or immutable"), "+{flag}: {said}");
                assert_eq!(temporary_names(&host.guests[1]), [""; 0].map(PathBuf::from));
                assert_tidy(&host.store(), "nothing is left");
            }
            for (before, now) in before.iter().zip(snapshots(&host)) {
                before.assert_same(&now, "after deunify");
            }
            assert_eq!(shared, [inode(&file), inode(&group)]);
            host.deunify(1, &[]);
            assert_eq!(fs::metadata(&file).unwrap().nlink(), 1);
        }
    });
}
