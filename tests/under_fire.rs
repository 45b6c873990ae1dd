//! The invariants while something else happens at the same moment: guests that write, other runs,
//! an administrator's cleanup, SIGKILL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::filesystem::on_each;
use support::moments::{
    after_recovery, at_any_moment, check_objects, equal_guests, is_reserved, snapshots,
};
use support::numbers::Numbers;
use support::program::{Host, output, spawn};
use support::snapshot::check_store;
use support::tree::{Content, PLAIN, make_file};

#[test]
fn inv6_killed_at_any_moment_and_finished_by_the_next_run() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 3);
        equal_guests(&host, 150);
        let before = snapshots(&host);
        let mut numbers = Numbers::new(0x9E37_79B9_7F4A_7C15);
        let (mut killed, mut leftovers) = (0, 0);
        for round in 0..40 {
            let mut command = if round % 3 == 2 {
                let guest = host.guests[round % host.guests.len()].clone();
                host.command([
                    "deunify".into(),
                    "--manually".into(),
                    guest.into_os_string(),
                ])
            } else {
                host.run_command(&[])
            };
            let mut run = spawn(&mut command);
            std::thread::sleep(Duration::from_micros(numbers.below(150_000)));
            run.kill().unwrap();
            killed += u32::from(!run.wait().unwrap().success());
            let now = snapshots(&host);
            for (before, now) in before.iter().zip(&now) {
                leftovers += now.0.keys().filter(|path| is_reserved(path)).count();
                at_any_moment(before).assert_same(&at_any_moment(now), "after SIGKILL");
            }
            check_objects(&host.store());
        }
        assert!(killed > 10, "most runs were over before they were killed");
        assert!(leftovers > 0, "no run was killed while it replaced a name");
        host.run(&[]);
        for (before, now) in before.iter().zip(snapshots(&host)) {
            after_recovery(before).assert_same(&after_recovery(&now), "after recovery");
        }
        check_store(&host.store());
        host.call(["verify", "--deep"]);
        for guest in 0..host.guests.len() {
            host.deunify(guest, &[]);
        }
        host.call(["gc"]);
        assert!(check_store(&host.store()).is_empty());
    });
}

#[test]
fn inv6_no_path_is_missing_for_an_instant() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        equal_guests(&host, 60);
        let paths: Vec<(PathBuf, Vec<u8>)> = host
            .guests
            .iter()
            .flat_map(|guest| support::snapshot::paths(guest))
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), fs::read(&path).unwrap()))
            .collect();
        let is_over = AtomicBool::new(false);
        let looks = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for (path, content) in &paths {
                        let found = fs::read(path)
                            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                        assert_eq!(&found, content, "{}", path.display());
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            for _ in 0..8 {
                if watcher.is_finished() {
                    break;
                }
                host.run(&[]);
                host.deunify(0, &[]);
                host.deunify(1, &["d1", "d2"]);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(looks.load(Ordering::Relaxed) > 1000);
    });
}

/// Writes that were made, and writes that were not found afterwards.
#[derive(Debug, Default)]
struct Writes {
    made: AtomicU64,
    lost: AtomicU64,
}

/// Lets processes write while runs go on for some seconds.
fn write_during_runs(host: &Host, faults: &str) -> Writes {
    let is_over = AtomicBool::new(false);
    let writes = Writes::default();
    std::thread::scope(|scope| {
        for (number, guest) in host.guests.iter().enumerate() {
            for thread in 0..12 {
                let seed = 1 + number as u64 * 12 + thread;
                let (is_over, writes) = (&is_over, &writes);
                scope.spawn(move || {
                    write_until(guest, thread, Numbers::new(seed), is_over, writes);
                });
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            // Nothing protects a shared file here, so that a run may find an object written to and
            // say so; what counts is what the writers find.
            output(
                host.run_command(&["--refresh"])
                    .env("VHASHIFY_FAULT", faults),
            );
        }
        is_over.store(true, Ordering::Relaxed);
    });
    writes
}

#[test]
fn inv5_what_a_process_writes_while_runs_go_on_is_in_the_file_afterwards() {
    on_each(|filesystem| {
        let writes = write_during_runs(&Host::new(filesystem.path(), 2), "");
        assert!(writes.made.load(Ordering::Relaxed) > 100);
        assert_eq!(writes.lost.load(Ordering::Relaxed), 0, "{writes:?}");
    });
}

/// The test above can fail: without leases it does.
#[cfg(feature = "fault-injection")]
#[test]
fn inv5_without_leases_writes_are_lost_and_the_test_sees_it() {
    let filesystem = support::filesystem::Filesystem::new(support::filesystem::Kind::Ext4);
    let lost = (0..10).any(|round| {
        let host = Host::new(&filesystem.path().join(format!("round{round}")), 2);
        let writes = write_during_runs(&host, "lease:1:omit");
        writes.lost.load(Ordering::Relaxed) > 0
    });
    assert!(
        lost,
        "no write was lost, though nothing held the writers back"
    );
}

/// Makes a file that has a twin in the other guest, appends to it a little later, and looks for
/// what it wrote a little later than that.
fn write_until(
    guest: &Path,
    thread: u64,
    mut numbers: Numbers,
    is_over: &AtomicBool,
    writes: &Writes,
) {
    let mut pause = |most| std::thread::sleep(Duration::from_micros(numbers.below(most)));
    for round in 0_u64.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let path = guest.join(format!("file{thread}-{}", round % 8));
        let new = guest.join(format!("new{thread}"));
        let content = Content {
            size: 1000 + round % 8,
            variant: 0,
        };
        make_file(&new, content, PLAIN);
        fs::rename(&new, &path).unwrap();
        // So long that many a run has scanned the file, and is reading it or replacing its name,
        // when it is opened.
        pause(100_000);
        let record = format!("{} wrote {round} here\n", guest.display());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        // And so long that a run which does not see that it is open has replaced it for good.
        pause(150_000);
        file.write_all(record.as_bytes()).unwrap();
        pause(4000);
        file.write_all(record.as_bytes()).unwrap();
        drop(file);
        pause(4000);
        let found = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let count = found.matches(&record).count() as u64;
        writes.made.fetch_add(2, Ordering::Relaxed);
        writes
            .lost
            .fetch_add(2_u64.saturating_sub(count), Ordering::Relaxed);
    }
}

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

#[test]
fn inv2_a_guests_own_change_of_a_directory_is_not_hidden_by_the_old_mtime() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        equal_guests(&host, 60);
        // The first guest's files become the objects, so that names are replaced in the second.
        let busy = host.guests[1].join("d3");
        let quiet = host.guests[1].join("d4");
        let quiet_since = fs::metadata(&quiet).unwrap().mtime_nsec();
        let last = std::thread::scope(|scope| {
            let guest = scope.spawn(|| {
                // While names are being replaced there: the last change but those of the run.
                let is_begun = || {
                    let entries = fs::read_dir(&busy).unwrap();
                    entries.flatten().any(|entry| is_reserved(&entry.path()))
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

#[test]
fn inv7_the_cleanup_of_administrators_is_harmless_at_any_moment() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        equal_guests(&host, 60);
        let before = snapshots(&host);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // Whatever vanishes under its hands is no failure of it.
                    let cleanup = "find \"$0\" -type f -links 1 -print0 | xargs -0 -r rm -f";
                    let store = host.store();
                    output(Command::new("sh").args(["-c", cleanup]).arg(store));
                }
            });
            for _ in 0..6 {
                host.run(&[]);
                host.deunify(0, &[]);
                host.call(["gc"]);
                host.deunify(1, &[]);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        host.run(&[]);
        for (before, now) in before.iter().zip(snapshots(&host)) {
            before.assert_same(&now, "after the cleanup");
        }
        check_store(&host.store());
        host.call(["verify", "--deep"]);
    });
}

#[test]
fn inv1_inv3_runs_collections_and_verifications_at_once_take_turns() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 3);
        equal_guests(&host, 60);
        let before = snapshots(&host);
        let commands = [&["gc"][..], &["verify", "--deep"], &["report"]];
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..4).for_each(|_| drop(host.run(&[]))));
            }
            for command in commands {
                let host = &host;
                scope.spawn(move || {
                    for _ in 0..6 {
                        host.call(command);
                    }
                });
            }
            scope.spawn(|| {
                for guest in [0, 1, 2, 0, 1, 2] {
                    host.deunify(guest, &[]);
                }
            });
        });
        host.run(&[]);
        for (before, now) in before.iter().zip(snapshots(&host)) {
            before.assert_same(&now, "after all of them");
        }
        check_store(&host.store());
        host.call(["verify", "--deep"]);
    });
}
