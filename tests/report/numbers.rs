//! What is saved, what is not and why, and how runs went, of guests whose every number is known.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use vhashify_testkit::filesystem::{Filesystem, Kind};
use vhashify_testkit::program::{Host, json as report_of, output};

use crate::command_line::tree::{Tree, write};

const BLOCK: u64 = 4096;

fn store_of(host: &Host) -> Value {
    host.call(["report"])["stores"][0].clone()
}

#[test]
fn what_is_saved_is_what_the_disk_does_not_hold_twice() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 3);
    for (number, guest) in host.guests.iter().enumerate() {
        write(guest, "all", "a".repeat(100_000));
        write(guest, "own", format!("{number}"));
    }
    for guest in &host.guests[..2] {
        write(guest, "two", "t".repeat(50_000));
    }
    let allocated = |name: &str| {
        let metadata = fs::metadata(host.guests[0].join(name)).unwrap();
        metadata.blocks() * 512
    };
    let before = store_of(&host);
    assert_eq!(before["store"]["saved_bytes"], 0);
    assert_eq!(before["runs"], json!([]), "no index, no runs");
    host.run(&[]);
    let report = store_of(&host);
    let saved = 2 * allocated("all") + allocated("two");
    assert_eq!(report["store"]["saved_bytes"], saved);
    let all = 3 * (allocated("all") + BLOCK) + 2 * allocated("two");
    assert_eq!(report["store"]["unshared_bytes"], all);
    let objects = report["objects"].as_array().unwrap();
    assert_eq!(objects.len(), 2);
    for (object, (name, guests)) in objects.iter().zip([("all", 3), ("two", 2)]) {
        assert_eq!(object["path"], format!("/{name}"));
        assert_eq!(object["guests"], guests);
        assert_eq!(object["names"], guests);
        assert_eq!(object["bytes"], allocated(name));
        assert_eq!(object["saved_bytes"], (guests - 1) * allocated(name));
    }
}

#[test]
fn what_looks_alike_is_counted_by_the_reason_that_keeps_it_apart() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = Tree::new(filesystem.path());
    tree.value(".defaults/apps/vunify/exclude", "/etc\n");
    let guests = ["one", "two", "three"].map(|name| tree.guest(name));
    for (number, guest) in (0_u8..).zip(&guests) {
        write(guest, "usr/shared", "the same");
        // Left out, and the same in all: two could be saved.
        write(guest, "etc/left-out", "left out");
        // Left out, and not the same: nothing could.
        let configured = write(guest, "etc/configured", format!("configured {number}"));
        set_mtime(&configured, 1_000_000 + u64::from(number));
        let touched = write(guest, "usr/touched", "touched");
        set_mtime(&touched, 1_000_000 + u64::from(number));
        // Read by the run, found to differ, and remembered.
        write(guest, "usr/differs", format!("differs {number}"));
        let owned = write(guest, "usr/owned", "owned");
        fs::set_permissions(owned, fs::Permissions::from_mode(0o600 + u32::from(number))).unwrap();
        let holes = write(guest, "usr/holes", "");
        fs::File::options()
            .write(true)
            .open(&holes)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        set_mtime(&holes, 1_000_000);
    }
    write(&guests[0], "usr/lonely", "nobody else has it");
    // The stamp of what is read now must be older than the run that is to remember it.
    std::thread::sleep(Duration::from_millis(50));
    tree.run(["--all"]);
    for guest in &guests[..2] {
        write(guest, "usr/new", "new");
    }
    let report = report_of(tree.command(["report"]));
    let count = |files: u64, blocks: u64| json!({ "files": files, "bytes": blocks * BLOCK });
    assert_eq!(
        report["stores"][0]["unshared"],
        json!({
            "not-yet": count(1, 1),
            "excluded": count(2, 2),
            "other-mtime": count(2, 2),
            "other-owner-mode-or-attributes": count(2, 2),
            "sparse": count(2, 0),
        }),
        "{report:#}"
    );
    let text = output(&mut tree.command(["report"]));
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("2 files,   8.2 kB: other-mtime"), "{text}");
}

fn set_mtime(path: &std::path::Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
fn runs_are_told_in_order_with_what_each_did() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        write(guest, "first", "f".repeat(10_000));
    }
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let began = began.unwrap().as_secs();
    host.run(&[]);
    host.run(&["-n"]);
    for guest in &host.guests {
        write(guest, "second", "s".repeat(20_000));
    }
    let writer = OpenOptions::new()
        .append(true)
        .open(host.guests[0].join("second"))
        .unwrap();
    host.run(&[]);
    drop(writer);
    let runs = store_of(&host)["runs"].as_array().unwrap().clone();
    assert_eq!(runs.len(), 2, "a dry run is no run: {runs:?}");
    for (run, (number, files, bytes)) in runs.iter().zip([(1, 1, 10_000), (2, 0, 0)]) {
        assert_eq!(run["number"], number);
        assert_eq!(run["guests"], 2);
        assert_eq!(run["files_unified"], files);
        assert_eq!(run["bytes_saved"], bytes);
        assert_eq!(run["errors"], 0);
        assert!(run["seconds"].as_f64().unwrap() > 0.0);
        let since = run["began"].as_u64().unwrap() - began;
        assert!(since < 600, "began {since} s after the test");
    }
    assert_eq!(runs[1]["skipped"]["open-for-writing"], 1);
    assert_eq!(runs[1]["skipped_bytes"]["open-for-writing"], 20_000);
}
