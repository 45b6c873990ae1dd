//! Filesystems that keep times in whole seconds, and times that lie in the future because a clock was wrong once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::program::Host;
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, inode, make_file};

const BEFORE: Content = Content {
    size: 5000,
    variant: 0,
};
const AFTER: Content = Content {
    size: 5000,
    variant: 1,
};

/// Waits for the begin of a second.
fn next_second() {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let rest = 1_005_000_000 - since.unwrap().subsec_nanos();
    std::thread::sleep(Duration::from_nanos(rest.into()));
}

/// Writes other bytes of the same size in place, and puts the mtime back.
fn rewrite(path: &Path, content: Content) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(&content.bytes()).unwrap();
    file.set_modified(PLAIN.modified()).unwrap();
}

#[test]
fn inv1_a_change_within_the_second_of_a_run_is_seen_by_the_next_run() {
    let filesystem = Filesystem::with_times_of_seconds();
    // Whether the changed file became an object in that second, or stayed private.
    for is_object in [true, false] {
        for number in 0..10 {
            let host = Host::new(&filesystem.path().join(format!("{is_object}{number}")), 3);
            let (changed, third) = (host.guests[0].join("file"), host.guests[2].join("file"));
            make_file(&third, BEFORE, PLAIN);
            next_second();
            make_file(&changed, BEFORE, PLAIN);
            let other = if is_object { BEFORE } else { AFTER };
            make_file(&host.guests[1].join("file"), other, PLAIN);
            let two = Host {
                guests: host.guests[..2].to_vec(),
                ..host.clone()
            };
            two.run(&[]);
            rewrite(&changed, AFTER);
            let began = fs::metadata(&host.guests[0]).unwrap().ctime();
            if fs::metadata(&changed).unwrap().ctime() != began {
                continue; // The run took longer than the second.
            }
            next_second();
            // A process of a guest writes to what is shared without protection, which the run may name.
            drop(host.run_command(&[]).output().unwrap());
            assert_eq!(
                fs::read(&third).unwrap(),
                BEFORE.bytes(),
                "inv1: the third guest got what was written to the first one's file"
            );
            if !is_object {
                let inodes = [0, 1].map(|guest| inode(&host.guests[guest].join("file")));
                assert_eq!(inodes[0], inodes[1], "the two files are the same by now");
                check_store(&host.store());
            }
            break;
        }
    }
}

#[test]
fn a_ctime_in_the_future_keeps_no_file_from_being_shared_or_given_back() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(&filesystem.path().join("place"), 3);
    for guest in &host.guests {
        make_file(&guest.join("file"), BEFORE, PLAIN);
    }
    let two = Host {
        guests: host.guests[..2].to_vec(),
        ..host.clone()
    };
    two.run(&[]);
    filesystem.while_unmounted(|image| {
        for guest in ["guest0", "guest2"] {
            let request = format!("set_inode_field /place/{guest}/file ctime 203001010000");
            command(
                Command::new("debugfs")
                    .args(["-w", "-R", &request])
                    .arg(image),
            );
        }
    });
    let file = |guest: usize| host.guests[guest].join("file");
    let ahead = fs::metadata(file(0)).unwrap().ctime();
    assert!(ahead > 1_890_000_000, "debugfs did not set it: {ahead}");
    let report = host.run(&[]);
    assert_eq!(report["files_unified"], 1, "{report}");
    assert_eq!(inode(&file(0)), inode(&file(2)));
    filesystem.while_unmounted(|image| {
        let request = "set_inode_field /place/guest0/file ctime 203001010000";
        command(
            Command::new("debugfs")
                .args(["-w", "-R", request])
                .arg(image),
        );
    });
    host.deunify(1, &[]);
    assert_ne!(inode(&file(0)), inode(&file(1)));
    check_store(&host.store());
}
