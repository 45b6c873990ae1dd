//! Every call that changes a disk, and every one that reads a guest, made to fail or to be the last
//! thing that the process does: at any point, invariants 1 to 5 hold, and the next run finishes or
//! undoes what was begun.
//!
//! `VHASHIFY_TORTURE=long` tries every hit of every point on every filesystem; without it, some.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use vhashify_sys::fault::Point;
use vhashify_testkit::built::FAULTS;
use vhashify_testkit::disturb::{Case, Scenario, disturb, is_killed, place_in};
use vhashify_testkit::filesystem::{Filesystem, Kind, on_each, on_each_of};
use vhashify_testkit::moments::{equal_guests, snapshots};
use vhashify_testkit::program::{Host, output};
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, make_file};

fn is_long() -> bool {
    std::env::var("VHASHIFY_TORTURE").is_ok_and(|value| value == "long")
}

/// Does the cases on a few threads: most of their time they wait for the disk.
fn each<T: Sync>(cases: &[T], check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(case);
                }
            });
        }
    });
}

/// Kills at each point, before and after the call, at its first, second, … hit, as long as there
/// is one. Returns the points that were met.
fn kill_at_each_point(filesystem: &Filesystem, scenarios: &[Scenario]) -> BTreeSet<&'static str> {
    let met = Mutex::new(BTreeSet::new());
    let cases: Vec<(Scenario, Point)> = scenarios
        .iter()
        .flat_map(|&scenario| Point::ALL.iter().map(move |&point| (scenario, point)))
        .collect();
    each(&cases, |&(scenario, point)| {
        for hit in if is_long() { 1..=40 } else { 1..=2 } {
            // Of many hits of a point that only reads, a few are enough.
            for action in ["kill-before", "kill-after"] {
                let faults = format!("{}:{hit}:{action}", point.name());
                let output = disturb(&Case { scenario, faults }, filesystem);
                if !is_killed(&output) {
                    return;
                }
                met.lock().unwrap().insert(point.name());
            }
        }
    });
    met.into_inner().unwrap()
}

#[test]
fn inv6_killed_before_and_after_every_call_that_counts() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let met = kill_at_each_point(&filesystem, &Scenario::ALL);
    let never: Vec<&str> = Point::ALL
        .iter()
        .map(|point| point.name())
        .filter(|name| !met.contains(name))
        // Only for a file that was written in the moment since the filesystem was synchronised.
        .filter(|&name| name != Point::ObjectSync.name())
        // Where extents are shared: see below.
        .filter(|name| !OF_EXTENTS.map(Point::name).contains(name))
        // Where objects are put under fs-verity: tests/verity.rs, in a machine whose kernel has it.
        .filter(|&name| name != Point::EnableVerity.name())
        // Where the guard is: tests/guard/displaced.rs.
        .filter(|name| !OF_GUARD.map(Point::name).contains(name))
        // Of a break for a running guest: tests/cow.
        .filter(|&name| name != Point::CopySync.name())
        .collect();
    assert_eq!(never, [""; 0], "no scenario comes to these points");
}

/// Points that only `--protect lsm` comes to.
const OF_GUARD: [Point; 2] = [Point::TurnBack, Point::WaitForMetadata];

/// Points that only `--protect reflink` comes to.
const OF_EXTENTS: [Point; 2] = [Point::MapExtents, Point::ShareExtents];

#[test]
fn inv1_to_inv6_killed_or_failing_while_extents_are_shared() {
    on_each_of(&Kind::WITH_SHARED_EXTENTS, |filesystem| {
        let errors = ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE", "ENOMEM"];
        let what = ["kill-before", "kill-after"].into_iter().chain(errors);
        let cases: Vec<String> = what
            .flat_map(|what| OF_EXTENTS.map(|point| (point, what)))
            .flat_map(|(point, what)| {
                // Once is for the trial whether the filesystem can.
                [2, 5].map(|hit| format!("{}:{hit}:{what}", point.name()))
            })
            .collect();
        each(&cases, |faults| {
            let place = place_in(filesystem);
            let host = Host::new(&place, 3).protected_by("reflink");
            for guest in &host.guests {
                for size in 5000..5010 {
                    let content = Content { size, variant: 0 };
                    make_file(&guest.join(format!("file{size}")), content, PLAIN);
                }
            }
            let before = snapshots(&host);
            let mut command = host.run_command(&["--jobs", "1"]);
            let disturbed = output(command.env(FAULTS, faults));
            let said = String::from_utf8_lossy(&disturbed.stderr).into_owned();
            if faults.contains("kill") {
                assert!(is_killed(&disturbed), "{faults}: {said}");
            } else {
                assert_eq!(disturbed.status.code(), Some(1), "{faults}: {said}");
                assert!(said.contains("ioctl(F"), "{faults}: {said}");
            }
            for _ in 0..2 {
                for (before, now) in before.iter().zip(snapshots(&host)) {
                    before.assert_same(&now, faults);
                }
                host.run(&[]);
            }
            assert_eq!(host.run(&[])["files_unified"], 0, "{faults}");
        });
    });
}

#[test]
fn inv6_killed_at_replacing_points_on_every_filesystem() {
    on_each(|filesystem| {
        let scenarios = [Scenario::FirstRun, Scenario::RunAfterKilledRun];
        let points = [
            Point::ObjectLink,
            Point::Mark,
            Point::TemporaryLink,
            Point::Exchange,
            Point::TemporaryUnlink,
            Point::RecoverExchange,
        ];
        let cases: Vec<(Scenario, Point)> = scenarios
            .iter()
            .flat_map(|&scenario| points.map(|point| (scenario, point)))
            .collect();
        each(&cases, |&(scenario, point)| {
            for hit in if is_long() { 1..=40 } else { 3..=3 } {
                let faults = format!("{}:{hit}:kill-after", point.name());
                disturb(&Case { scenario, faults }, filesystem);
            }
        });
    });
}

#[test]
fn inv1_to_inv7_every_call_fails_with_every_error_of_a_disk() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let errors = ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE", "ENOMEM"];
    let mut cases = Vec::new();
    for (number, point) in Point::ALL.iter().enumerate() {
        for (at, scenario) in Scenario::ALL.into_iter().enumerate() {
            for (which, error) in errors.into_iter().enumerate() {
                // Each pair of point and scenario with one error, each point with all of them.
                if !is_long() && (number + at) % errors.len() != which {
                    continue;
                }
                for fault in [format!("2:{error}"), format!("1:{error}+")] {
                    let faults = format!("{}:{fault}", point.name());
                    cases.push(Case { scenario, faults });
                }
            }
        }
    }
    each(&cases, |case| {
        let output = disturb(case, &filesystem);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = format!("{:?} {}: {said}", case.scenario, case.faults);
        assert!(matches!(output.status.code(), Some(0..=2)), "{what}");
        assert!(!said.contains("panicked"), "{what}");
        if output.status.code() != Some(0) {
            assert!(!said.is_empty(), "it failed and did not say why: {what}");
        }
    });
}

#[test]
fn inv3_an_inode_that_can_take_no_more_links_is_followed_by_the_next_instance() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 4);
        equal_guests(&host, 3);
        let before = snapshots(&host);
        let faults = "temporary-link:3:EMLINK,object-link:2:EMLINK";
        let output = output(host.run_command(&[]).env(FAULTS, faults));
        assert!(output.status.success(), "{output:?}");
        for (before, now) in before.iter().zip(snapshots(&host)) {
            before.assert_same(&now, "after EMLINK");
        }
        check_store(&host.store());
    });
}
