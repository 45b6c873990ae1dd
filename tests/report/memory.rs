//! What a report says of the page cache, against files that were just read or just given up.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Advice, fadvise};
use serde_json::Value;
use vhashify_sys::page_cache::{by_cachestat, by_mincore, page_size, resident_bytes};

use vhashify_testkit::filesystem::{Filesystem, Kind, on_each};
use vhashify_testkit::program::Host;

use crate::command_line::tree::write;

const SIZE: u64 = 3_000_000;
const LENGTH: usize = 3_000_000;

/// Gives up whatever the page cache has of a file. Pages that are not on the disk yet stay, so that
/// goes first.
fn give_up(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

/// Reads a file from its beginning.
fn read(path: &Path, length: usize) {
    // Without read-ahead exactly what is asked for is read.
    let mut file = File::open(path).unwrap();
    fadvise(&file, 0, None, Advice::Random).unwrap();
    file.read_exact(&mut vec![0; length]).unwrap();
}

fn in_pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(page_size())
}

/// Two guests that share one file, and each have one of their own.
fn two_guests(filesystem: &Filesystem) -> Host {
    let host = Host::new(filesystem.path(), 2);
    for (guest, own) in host.guests.iter().zip(["1", "2"]) {
        write(guest, "shared", "s".repeat(LENGTH));
        write(guest, "own", own.repeat(LENGTH));
    }
    host.run(&[]);
    host
}

/// What the report says once the page cache holds `bytes`: `bring` is done again where it does not. The
/// kernel may take any page away at any moment, and keep one for a while that was given up.
fn store_with(host: &Host, bytes: u64, bring: impl Fn()) -> Value {
    for _ in 0..50 {
        bring();
        let report = store_of(host);
        if report["store"]["page_cache"]["bytes"] == bytes {
            return report;
        }
    }
    panic!(
        "{bytes} bytes are never in the page cache: {}",
        store_of(host)
    );
}

fn store_of(host: &Host) -> Value {
    host.call(["report"])["stores"][0].clone()
}

#[test]
fn what_was_read_is_counted_and_what_was_given_up_is_not() {
    on_each(|filesystem| {
        let host = two_guests(filesystem);
        let shared = host.guests[0].join("shared");
        let own = host.guests[1].join("own");
        let give_up_all = || {
            for path in [&shared, &own, &host.guests[0].join("own")] {
                give_up(path);
            }
        };
        // The report itself reads nothing.
        let report = store_with(&host, 0, give_up_all);
        assert_eq!(report["page_cache_unknown"], Value::Null);
        let cache = &report["store"]["page_cache"];
        assert_eq!(cache["full_bytes"], 3 * in_pages(SIZE));
        assert_eq!(cache["full_unshared_bytes"], 4 * in_pages(SIZE));

        let report = store_with(&host, in_pages(SIZE), || read(&shared, LENGTH));
        let cache = &report["store"]["page_cache"];
        assert_eq!(cache["shared_bytes"], in_pages(SIZE));
        assert_eq!(cache["saved_bytes"], in_pages(SIZE));
        assert_eq!(report["objects"][0]["path"], "/shared");
        assert_eq!(report["objects"][0]["page_cache_bytes"], in_pages(SIZE));

        let report = store_with(&host, 2 * in_pages(SIZE), || {
            read(&shared, LENGTH);
            read(&own, LENGTH);
        });
        assert_eq!(report["store"]["page_cache"]["saved_bytes"], in_pages(SIZE));
        for (guest, private) in [(0, 0), (1, in_pages(SIZE))] {
            let cache = &report["guests"][guest]["page_cache"];
            assert_eq!(cache["shared_bytes"], in_pages(SIZE), "{report}");
            assert_eq!(cache["private_bytes"], private, "{report}");
            assert_eq!(cache["fair_share_bytes"], private + in_pages(SIZE) / 2);
        }

        // Whatever was foretold of reading everything comes true.
        let report = store_with(&host, 3 * in_pages(SIZE), || {
            for guest in &host.guests {
                for name in ["shared", "own"] {
                    read(&guest.join(name), LENGTH);
                }
            }
        });
        let cache = &report["store"]["page_cache"];
        assert_eq!(cache["bytes"], cache["full_bytes"]);

        // Read again each time, since the kernel may have taken a page of these meanwhile.
        let report = store_with(&host, 2 * in_pages(SIZE), || {
            for guest in &host.guests {
                read(&guest.join("own"), LENGTH);
            }
            give_up(&shared);
        });
        assert_eq!(report["store"]["page_cache"]["shared_bytes"], 0);
    });
}

#[test]
fn both_calls_say_the_same_and_count_pages() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let path = write(filesystem.path(), "file", "f".repeat(LENGTH));
    for length in [0, 1, 5000, 1_000_000, LENGTH] {
        let file = File::open(&path).unwrap();
        let expected = in_pages(length as u64);
        let is_there = (0..50).any(|_| {
            give_up(&path);
            read(&path, length);
            by_mincore(file.as_fd(), SIZE).unwrap() == expected
        });
        assert!(is_there, "{length}");
        assert_eq!(
            by_mincore(file.as_fd(), SIZE).unwrap(),
            expected,
            "{length}"
        );
        assert_eq!(resident_bytes(file.as_fd(), SIZE).unwrap(), expected);
        match by_cachestat(file.as_fd()) {
            Ok(bytes) => assert_eq!(bytes, expected, "{length}"),
            // Linux before 6.5.
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOSYS)),
        }
    }
    let empty = write(filesystem.path(), "empty", "");
    let empty = File::open(empty).unwrap();
    assert_eq!(by_mincore(empty.as_fd(), 0).unwrap(), 0);
}
