//! What a run does beside a guest that runs: what is open for writing is left alone, and a directory
//! that the guest changes has the times of that change. `torture` has the races.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use vhashify_testkit::disturb::with_moves;
use vhashify_testkit::filesystem::on_each;
use vhashify_testkit::held_open::{APPENDED, HeldWriter};
use vhashify_testkit::moments::equal_guests;
use vhashify_testkit::program::Host;
use vhashify_testkit::tree::{Content, PLAIN, make_file};
use vhashify_testkit::work::temporary_names;

#[test]
fn inv5_a_file_that_is_open_for_writing_is_left_alone_and_counted() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            make_file(
                &guest.join("file"),
                Content {
                    size: 9,
                    variant: 0,
                },
                PLAIN,
            );
        }
        let path = host.guests[0].join("file");
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        let report = host.run(&[]);
        assert_eq!(report["files_unified"], 0);
        assert_eq!(report["skipped"]["open-for-writing"], 1);
        drop(writer);
        assert_eq!(host.run(&[])["files_unified"], 1);
    });
}

/// On the way from counting as a writer to asking for the lease a process can be held as long as the
/// scheduler likes: longer than any run waits.
#[test]
fn inv5_a_process_that_is_held_while_it_opens_the_old_file_loses_no_write() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        let content = Content {
            size: 9,
            variant: 0,
        };
        for guest in &host.guests {
            make_file(&guest.join("file"), content, PLAIN);
        }
        // The second guest's name is about to be replaced.
        let path = host.guests[1].join("file");
        let writer = RefCell::new(None);
        let start = || *writer.borrow_mut() = Some(HeldWriter::start(&path));
        with_moves(host.run_command(&[]), "exchange:1:stop-before", &[&start]);
        let written = writer.take().unwrap().let_go();
        assert!(written.status.success(), "{written:?}");
        assert_eq!(
            fs::read(&path).unwrap(),
            [&content.bytes(), APPENDED].concat()
        );
        assert_eq!(
            fs::read(host.guests[0].join("file")).unwrap(),
            content.bytes()
        );
    });
}

#[test]
fn inv2_a_guests_own_change_of_a_directory_is_not_hidden_by_the_old_mtime() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        equal_guests(&host, 60);
        // The first guest's files become the objects, so that names are replaced in the second.
        let busy = host.guests[1].join("d3");
        let quiet = host.guests[1].join("d4");
        let files: Vec<u64> = (0..9)
            .filter_map(|number| fs::metadata(busy.join(format!("file{}", 3 + 7 * number))).ok())
            .map(|metadata| metadata.ino())
            .collect();
        let quiet_since = fs::metadata(&quiet).unwrap().mtime_nsec();
        let last = std::thread::scope(|scope| {
            let guest = scope.spawn(|| {
                // While names are being replaced there: the last change but those of the run.
                let is_begun = || {
                    let names = temporary_names(&host.store()).into_iter();
                    names
                        .map(|name| name.path)
                        .any(|path| leads_to(&path, &files))
                };
                let begun = Instant::now();
                while !is_begun() {
                    assert!(
                        begun.elapsed() < Duration::from_secs(30),
                        "nothing was replaced"
                    );
                }
                let new = File::create(busy.join("new")).unwrap();
                new.metadata().unwrap().modified().unwrap()
            });
            host.run(&[]);
            guest.join().unwrap()
        });
        let seen = fs::metadata(&busy).unwrap().modified().unwrap();
        assert!(
            seen >= last,
            "the guest's last change is hidden: {seen:?} < {last:?}"
        );
        assert_eq!(fs::metadata(&quiet).unwrap().mtime_nsec(), quiet_since);
    });
}

/// Whether a name leads to one of these inodes; it may be gone.
fn leads_to(path: &Path, inodes: &[u64]) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| inodes.contains(&metadata.ino()))
}
