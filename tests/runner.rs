//! All tests that need more than the code beside them: of the built programs, of filesystems, kernels and
//! guests. One program, so that Cargo links the library once, and not for each folder.
//!
//! | part | what it shows |
//! | --- | --- |
//! | [`invariants`] | the invariants of `docs/how-it-works.md`, on ext4, XFS and Btrfs |
//! | [`real_guests`], [`running_guests`] | Debian guests; guests that write meanwhile |
//! | [`late_names`], [`moved_meanwhile`], [`adversary`] | whoever does things at the worst moment, or on purpose |
//! | [`inode_users`] | files that somebody uses by another way than by their names |
//! | [`faults`], [`power_cut`] | every call that fails or is the last one; every write after which the power goes |
//! | [`damaged_index`] | an index with bits turned |
//! | [`exclude_patterns`], [`exclude_packages`], [`parsers`] | what is read of guests and disks |
//! | [`rot`] | bytes that rot on the disk |
//! | [`deep_directories`] | directories in one another, thousands of them |
//! | [`placement`] | project ids and hints of where data are to lie |
//! | [`reflink`], [`cow`] | sharing extents; private copies before a write |
//! | [`command_line`], [`report`], [`bench_drawing`] | what an administrator types and sees |
//! | [`vserver`], [`containers`] | guests that run; containers of other runtimes |
//! | [`guard`], [`verity`] | what needs a kernel that few hosts have: ignored here, run in machines |
//! | [`vm`] | these machines; ignored unless `make test-vm` asks |
//!
//! The attacks that last for minutes are the other test program, `torture`.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in their helpers

mod adversary;
mod bench_drawing;
mod coarse_times;
mod command_line;
mod containers;
#[cfg(feature = "fault-injection")]
mod cow;
mod damaged_index;
#[cfg(feature = "fault-injection")]
mod deep_directories;
mod exclude_packages;
mod exclude_patterns;
#[cfg(feature = "fault-injection")]
mod faults;
#[cfg(all(feature = "guard", feature = "fault-injection"))]
mod guard;
mod inode_users;
mod invariants;
mod late_names;
#[cfg(feature = "fault-injection")]
mod moved_meanwhile;
mod parsers;
mod placement;
mod power_cut;
mod real_guests;
mod reflink;
mod refusing_directories;
mod report;
mod rot;
#[cfg(feature = "fault-injection")]
mod running_guests;
#[cfg(feature = "fault-injection")]
mod verity;
#[cfg(all(feature = "guard", feature = "fault-injection"))]
mod vm;
mod vserver;
mod work_directory;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vhashify_testkit::built::repository;

/// A file that no `mod` line names is compiled by nobody, and its tests are as good as gone.
#[test]
fn no_file_of_tests_is_forgotten() {
    let tests = repository().join("tests");
    let mut reached = BTreeSet::new();
    reach(&tests.join("runner.rs"), &tests, &mut reached);
    let torture = tests.join("torture");
    reach(&torture.join("main.rs"), &torture, &mut reached);
    let there: BTreeSet<PathBuf> = walkdir::WalkDir::new(&tests)
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .collect();
    let forgotten: Vec<_> = there.difference(&reached).collect();
    assert!(forgotten.is_empty(), "no `mod` line names {forgotten:?}");
}

/// Adds a file and those that its `mod` lines name, which stand in `folder`.
fn reach(file: &Path, folder: &Path, reached: &mut BTreeSet<PathBuf>) {
    let text = std::fs::read_to_string(file).unwrap();
    reached.insert(file.to_path_buf());
    let named = |line: &str| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned())
    };
    for name in text.lines().filter_map(named) {
        let places = [format!("{name}.rs"), format!("{name}/mod.rs")];
        // One that stands elsewhere is named by a `#[path]`, and is no file of this folder.
        for place in places.iter().map(|place| folder.join(place)) {
            if place.exists() {
                reach(&place, &folder.join(&name), reached);
            }
        }
    }
}
