//! A guest's administrator swaps directories and files for what leads out of the guest, while runs go
//! on: no file outside of the guests is ever read, linked or replaced.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, RenameFlags};

use vhashify_testkit::bait::{FILES, content, outside, tempting};
use vhashify_testkit::program::{Host, output};
use vhashify_testkit::snapshot::check_store;

use crate::attack::{Attack, Ends, Field};

pub const ATTACK: Attack = Attack {
    name: "inv4_swaps",
    invariants: &[1, 4],
    run,
};

/// A run that waits for a FIFO waits for ever; one on a busy or emulated machine does not.
const LONGEST_RUN: Duration = Duration::from_mins(5);

fn run(field: &mut Field<'_>) {
    let third = field.turn / 3;
    let swaps = [
        directory_for_link(field, third),
        directory_out_of_the_guest(field, third),
        file_for_fifo_or_device(field, third),
    ];
    field.tried("swaps", swaps.iter().sum());
}

/// A directory becomes a symbolic link to the host's files.
fn directory_for_link(field: &Field<'_>, time: Duration) -> u64 {
    let host = field.host(3);
    let secret = host.place.join("secret");
    tempting(&secret);
    for guest in &host.guests {
        tempting(&guest.join("swapped"));
    }
    // Not by way of the host's root, which is another mount.
    symlink("../secret", host.guests[0].join("link")).unwrap();
    let before = outside(&secret);
    let (one, other) = (host.guests[0].join("swapped"), host.guests[0].join("link"));
    let swaps = under_attack(&host, time, || exchange(&one, &other));
    assert_eq!(outside(&secret), before, "the host's files were touched");
    check_store(&host.store());
    swaps
}

/// A directory is moved out of the guest and back.
fn directory_out_of_the_guest(field: &Field<'_>, time: Duration) -> u64 {
    let host = field.host(3);
    for guest in &host.guests {
        tempting(&guest.join("deep/swapped"));
        tempting(&guest.join("swapped"));
    }
    let elsewhere = host.place.join("elsewhere");
    let inside = host.guests[0].join("deep/swapped");
    let swaps = under_attack(&host, time, || {
        fs::rename(&inside, &elsewhere).unwrap();
        fs::rename(&elsewhere, &inside).unwrap();
    });
    // A run may have replaced names in it while it was a part of the guest; what they hold is the
    // same.
    for number in 0..FILES {
        let found = fs::read(inside.join(format!("file{number}"))).unwrap();
        assert_eq!(found, content(number).bytes());
    }
    check_store(&host.store());
    swaps
}

/// Files become FIFOs, which would make an `open` wait, and devices, where it does things.
fn file_for_fifo_or_device(field: &Field<'_>, time: Duration) -> u64 {
    let host = field.host(3);
    for guest in &host.guests {
        tempting(&guest.join("swapped"));
    }
    let fifo = host.guests[0].join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let device = host.guests[0].join("tty");
    let tty = rustix::fs::makedev(5, 0);
    rustix::fs::mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR, tty).unwrap();
    let file = |number: u64| host.guests[0].join(format!("swapped/file{number}"));
    let swaps = under_attack(&host, time, || {
        for number in 0..FILES {
            let other = if number % 2 == 0 { &fifo } else { &device };
            exchange(&file(number), other);
            std::thread::sleep(Duration::from_micros(200));
            exchange(&file(number), other);
        }
    });
    assert_eq!(fs::symlink_metadata(&fifo).unwrap().nlink(), 1);
    check_store(&host.store());
    swaps * FILES
}

/// Runs go on for some time while `attack` is done again and again in the first guest; how often it was done.
fn under_attack(host: &Host, time: Duration, attack: impl Fn() + Sync) -> u64 {
    let is_over = AtomicBool::new(false);
    let swaps = AtomicU64::new(0);
    let until = Instant::now() + time;
    std::thread::scope(|scope| {
        let _ends = Ends(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                attack();
                swaps.fetch_add(2, Ordering::Relaxed);
            }
        });
        while Instant::now() < until {
            let run = Instant::now();
            let output = output(&mut host.run_command(&[]));
            assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
            assert!(run.elapsed() < LONGEST_RUN, "the run hung");
            // The second guest's files are new ones again, so that there is something to do.
            let directory = host.guests[1].join("swapped");
            fs::remove_dir_all(&directory).unwrap();
            tempting(&directory);
        }
    });
    swaps.into_inner()
}

fn exchange(one: &Path, other: &Path) {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}
