//! Runs that are not left alone: guests write meanwhile, and SIGKILL ends them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vhashify_testkit::moments::{equal_guests, snapshots};
use vhashify_testkit::program::spawn;
use vhashify_testkit::tree::{Content, PLAIN, make_file};

use super::blocks::assert_in_one_place;
use super::{all_inodes, assert_same, host, in_each, on_each};

#[test]
fn inv5_what_a_process_writes_while_runs_go_on_is_in_the_file_afterwards() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 2);
        let (is_over, made) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut shared = 0;
        std::thread::scope(|scope| {
            for (number, guest) in host.guests.iter().enumerate() {
                for thread in 0..8 {
                    let (is_over, made) = (&is_over, &made);
                    scope.spawn(move || {
                        for round in 0_u64.. {
                            if is_over.load(Ordering::Relaxed) {
                                break;
                            }
                            write_and_look(guest, thread, round + number as u64);
                            made.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
            let begun = Instant::now();
            // On a busy machine a run takes long, and most files have been written to meanwhile.
            let is_enough = |shared| shared > 10 && begun.elapsed() > Duration::from_secs(5);
            while !is_enough(shared) && begun.elapsed() < Duration::from_mins(2) {
                shared += host.run(&[])["files_unified"].as_u64().unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert!(made.load(Ordering::Relaxed) > 50);
        assert!(shared > 10, "runs shared {shared} files only");
    });
}

/// Makes a file that has a twin in the other guest, writes into it while it may be being shared,
/// and looks whether it holds what it wrote and nothing else.
fn write_and_look(guest: &Path, thread: u64, round: u64) {
    let path = guest.join(format!("file{thread}"));
    let new = guest.join(format!("new{thread}"));
    let content = Content {
        size: 20_000,
        variant: 0,
    };
    make_file(&new, content, PLAIN);
    fs::rename(&new, &path).unwrap();
    // So long that many a run has found its twin, and reads or shares them, when it is written to.
    std::thread::sleep(Duration::from_millis(200 + round * 67 % 1500));
    let record = format!("{} wrote {round} here", guest.display());
    let at = 30 + round * 499 % 19_000;
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    std::thread::sleep(Duration::from_millis(round * 3 % 20));
    file.write_all_at(record.as_bytes(), at).unwrap();
    (&file).write_all(b"and at the beginning").unwrap();
    drop(file);
    std::thread::sleep(Duration::from_millis(round * 5 % 40));
    let mut wanted = content.bytes();
    let at = usize::try_from(at).unwrap();
    wanted[at..at + record.len()].copy_from_slice(record.as_bytes());
    wanted[..20].copy_from_slice(b"and at the beginning");
    assert!(fs::read(&path).unwrap() == wanted, "{}", path.display());
}

#[test]
fn inv6_killed_at_any_moment() {
    on_each(|filesystem| {
        let host = host(filesystem.path(), 3);
        equal_guests(&host, 100);
        for guest in &host.guests {
            for number in 0..60 {
                let size = 20_000 + number;
                make_file(
                    &guest.join(format!("large{number}")),
                    Content { size, variant: 0 },
                    PLAIN,
                );
            }
        }
        let (before, inodes) = (snapshots(&host), all_inodes(&host));
        let mut killed = 0;
        for round in 0..25_u64 {
            let mut run = spawn(&mut host.run_command(&["--refresh"]));
            std::thread::sleep(Duration::from_micros(round * 7919 % 60_000));
            run.kill().unwrap();
            killed += u32::from(!run.wait().unwrap().success());
            assert_same(&before, &host, "after SIGKILL");
        }
        assert!(killed > 10, "most runs were over before they were killed");
        host.run(&[]);
        assert_same(&before, &host, "after the last run");
        assert_eq!(all_inodes(&host), inodes);
        assert_in_one_place(&in_each(&host, "large0"));
    });
}
