//! What holds at every moment, also after SIGKILL, and what holds once the next run is through.

use std::fs;
use std::path::Path;

use super::program::Host;
use super::snapshot::{Content as Found, Entry, Snapshot, paths};
use super::tree::{Content, PLAIN, make_file};

const RESERVED: &str = ".vhashify-";

/// Guests of `files` files each, the same in all: every third a link group of two to four names.
pub fn equal_guests(host: &Host, files: u64) {
    for guest in &host.guests {
        for number in 0..files {
            let directory = guest.join(format!("d{}", number % 7));
            let content = Content {
                size: 500 + number,
                variant: 0,
            };
            let path = directory.join(format!("file{number}"));
            make_file(&path, content, PLAIN);
            if number.is_multiple_of(3) {
                for name in 0..=number % 4 {
                    let other = guest.join(format!("d{}", (number + name) % 7));
                    fs::create_dir_all(&other).unwrap();
                    fs::hard_link(&path, other.join(format!("link{number}-{name}"))).unwrap();
                }
            }
        }
    }
}

/// What each guest is now.
pub fn snapshots(host: &Host) -> Vec<Snapshot> {
    host.guests
        .iter()
        .map(|guest| Snapshot::of(guest))
        .collect()
}

/// Panics unless the guests are what they were.
pub fn assert_same(before: &[Snapshot], host: &Host, when: &str) {
    for (number, (before, after)) in before.iter().zip(snapshots(host)).enumerate() {
        before.assert_same(&after, &format!("{when}, guest {number}"));
    }
}

/// Panics unless the guests are what they were, once a run is through: all but the times of directories.
pub fn assert_recovered(before: &[Snapshot], host: &Host, when: &str) {
    for (before, now) in before.iter().zip(snapshots(host)) {
        after_recovery(before).assert_same(&after_recovery(&now), when);
    }
}

/// What holds at every moment, also after SIGKILL: no path is missing or has other bytes or
/// metadata, and none is there that was not. Directories' times and half-shared groups are the next run's.
pub fn at_any_moment(snapshot: &Snapshot) -> Snapshot {
    let mut entries = snapshot.0.clone();
    for (path, entry) in &mut entries {
        entry.first_name.clone_from(path);
        forget_times_of_directory(entry);
    }
    Snapshot(entries)
}

/// What holds once the next run is through: all but the times of directories.
pub fn after_recovery(snapshot: &Snapshot) -> Snapshot {
    let mut entries = snapshot.0.clone();
    entries.values_mut().for_each(forget_times_of_directory);
    Snapshot(entries)
}

fn forget_times_of_directory(entry: &mut Entry) {
    if entry.content == Found::Directory {
        entry.mtime = (0, 0);
    }
}

/// Whether a name is one of those that runs up to version 0.1 put beside what they replaced.
pub fn is_reserved(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(RESERVED)
}

/// A run that is killed between linking and marking leaves an object without its mark, which the
/// next one sets.
pub fn check_objects(store: &Path) {
    for path in paths(store) {
        if path.is_file() {
            let name = path.file_name().unwrap().to_str().unwrap();
            let digest = blake3::hash(&fs::read(&path).unwrap());
            assert!(name.starts_with(digest.to_hex().as_str()), "{name}");
        }
    }
}
