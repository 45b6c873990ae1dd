//! Directories in one another, more than any path holds: what a walk does grows with their number, and not with its square.
//!
//! Counted are the names that the kernel resolves for this program, which is what such a walk consists of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;
use vhashify::broker::link_group::LinkGroups;
use vhashify::exclude::Rules;
use vhashify::guest::{Guest, InodeUsers};
use vhashify::outcome::{Silent, Skip};
use vhashify::scan::{Request, Scan, scan};
use vhashify_sys::resolve::names_resolved;
use vhashify_testkit::built;
use vhashify_testkit::filesystem::command;

/// `depth` directories in one another, with a second one beside each, and a file with one name in the vdir and one at
/// the bottom.
struct Deep {
    guest: Guest,
    inode: u64,
    place: TempDir,
}

impl Deep {
    fn new(depth: usize) -> Self {
        let place = TempDir::with_prefix_in("deep-", built::scratch()).unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, "twice").unwrap();
        let mut directory: OwnedFd = File::open(place.path()).unwrap().into();
        for _ in 0..depth {
            rustix::fs::mkdirat(&directory, "beside", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            directory = rustix::fs::openat(&directory, "d", flags, Mode::empty()).unwrap();
        }
        let flags = rustix::fs::AtFlags::empty();
        rustix::fs::linkat(rustix::fs::CWD, &file, &directory, "again", flags).unwrap();
        Self {
            guest: Guest::open("deep".as_ref(), place.path()).unwrap(),
            inode: file.metadata().unwrap().ino(),
            place,
        }
    }

    fn scan(&self) -> Scan {
        let rules = Rules::none();
        let request = Request {
            guest: &self.guest,
            rules: &rules,
        };
        let users = InodeUsers::default();
        scan(&[request], 0, None, &users, &[], &Silent)
    }
}

impl Drop for Deep {
    fn drop(&mut self) {
        remove(self.place.path());
    }
}

/// `rm -r` of what no path reaches.
fn remove(place: &Path) {
    command(std::process::Command::new("rm").arg("-rf").arg(place));
}

/// How many names `work` has resolved in this thread.
fn resolved(work: impl FnOnce()) -> usize {
    let before = names_resolved();
    work();
    names_resolved() - before
}

/// Four times as many directories: 4 in proportion, 16 by their square.
fn assert_in_proportion(few: usize, many: usize) {
    assert!(
        many <= 5 * few,
        "{few} steps, and {many} for four times as many directories"
    );
}

#[test]
fn the_names_of_a_file_are_found_in_steps_in_proportion_to_the_directories() {
    let [few, many] = [2000, 8000].map(|depth| {
        let deep = Deep::new(depth);
        let groups = LinkGroups::new(None);
        resolved(|| {
            let names = groups
                .names(&deep.guest, deep.inode, None, 0)
                .unwrap()
                .unwrap();
            let mut found: Vec<usize> = names
                .iter()
                .map(|placed| placed.name.directory.len())
                .collect();
            found.sort_unstable();
            assert_eq!(found, [0, 2 * depth - 1]);
        })
    });
    assert_in_proportion(few, many);
}

#[test]
fn a_run_reads_directories_in_steps_in_proportion_to_them() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let [few, many] = [120, 480].map(|depth| {
        let deep = Deep::new(depth);
        pool.install(|| resolved(|| assert_eq!(deep.scan().files.len(), 2)))
    });
    assert_in_proportion(few, many);
}

#[test]
fn a_run_leaves_what_lies_below_five_hundred_directories_and_says_so() {
    let [few, many] = [2000, 8000].map(|depth| {
        let deep = Deep::new(depth);
        let scan = deep.scan();
        assert_eq!(scan.files.len(), 1);
        assert_eq!(scan.skipped.count(Skip::TooDeep), 2);
        deep
    });
    drop((few, many));
}
