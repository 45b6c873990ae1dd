//! Every call that changes a disk, and every one that reads a guest, made to fail or to be the last
//! thing that the process does: at any point, invariants 1 to 5 hold, and the next run finishes or
//! undoes what was begun.
//!
//! `VHASHIFY_TORTURE=long` tries every hit of every point on every filesystem; without it, some.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use support::filesystem::{Filesystem, Kind, on_each, on_each_of};
use support::moments::{
    after_recovery, at_any_moment, check_objects, equal_guests, is_reserved, snapshots,
};
use support::program::{Host, output};
use support::snapshot::{Content as Found, Entry, Snapshot, check_store};
use support::tree::{Content, PLAIN, make_file};
use vhashify::sys::fault::Point;

const VARIABLE: &str = "VHASHIFY_FAULT";
const FILES: u64 = 10;
const WRITTEN: &str = "written while no run held a lease";

/// A state to begin with and a command that is to be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    /// Nothing is shared yet.
    FirstRun,
    /// Most is shared, and a guest has new files and new names.
    LaterRun,
    /// No name but the first of a link group can be exchanged, so that it is taken back, and what
    /// became an object is a private file again.
    UndoneRun,
    /// A run was killed in the middle of a link group.
    RunAfterKilledRun,
    /// A run was killed while it made its replacements final, and a process wrote since.
    RunAfterKilledRunAndWrite,
    /// `deunify` was killed in the middle of a link group.
    RunAfterKilledDeunify,
    /// The index is damaged.
    RunWithDamagedIndex,
    Deunify,
    Collect,
    Repair,
}

impl Scenario {
    const ALL: [Self; 10] = [
        Self::FirstRun,
        Self::LaterRun,
        Self::UndoneRun,
        Self::RunAfterKilledRun,
        Self::RunAfterKilledRunAndWrite,
        Self::RunAfterKilledDeunify,
        Self::RunWithDamagedIndex,
        Self::Deunify,
        Self::Collect,
        Self::Repair,
    ];

    /// Makes the state in `place`.
    fn prepare(self, place: &Path) -> Host {
        let host = Host::new(place, 3);
        if self == Self::UndoneRun {
            // Nothing but a link group, so that its first name is the first that is exchanged.
            for guest in &host.guests {
                make_file(
                    &guest.join("d0/file0"),
                    Content {
                        size: 77,
                        variant: 0,
                    },
                    PLAIN,
                );
                for name in ["d0/link0-0", "d0/link0-1"] {
                    fs::hard_link(guest.join("d0/file0"), guest.join(name)).unwrap();
                }
            }
            return host;
        }
        equal_guests(&host, FILES);
        match self {
            Self::FirstRun | Self::UndoneRun => {}
            Self::LaterRun => {
                host.run(&[]);
                for guest in &host.guests[..2] {
                    make_file(
                        &guest.join("new/file"),
                        Content {
                            size: 77,
                            variant: 0,
                        },
                        PLAIN,
                    );
                    fs::hard_link(guest.join("new/file"), guest.join("new/name")).unwrap();
                }
                fs::hard_link(
                    host.guests[0].join("d1/file1"),
                    host.guests[0].join("added"),
                )
                .unwrap();
            }
            Self::RunAfterKilledRun => {
                killed(
                    &mut host.run_command(&["--jobs", "1"]),
                    "exchange:8:kill-after",
                );
            }
            Self::RunAfterKilledRunAndWrite => {
                killed(
                    &mut host.run_command(&["--jobs", "1"]),
                    "temporary-unlink:1:kill-before",
                );
                write_to_a_leftover(&host);
            }
            Self::RunAfterKilledDeunify => {
                host.run(&[]);
                killed(&mut deunify(&host, 0), "exchange:8:kill-after");
            }
            Self::RunWithDamagedIndex => {
                host.run(&[]);
                for entry in fs::read_dir(host.state()).unwrap() {
                    fs::write(entry.unwrap().path(), "no index").unwrap();
                }
            }
            Self::Deunify => drop(host.run(&[])),
            Self::Collect => {
                host.run(&[]);
                for guest in 0..3 {
                    host.deunify(guest, &[]);
                }
            }
            Self::Repair => {
                host.run(&[]);
                fs::remove_dir_all(host.state()).unwrap();
            }
        }
        host
    }

    fn command(self, host: &Host) -> Command {
        match self {
            Self::Deunify => deunify(host, 0),
            Self::Collect => host.command(["gc"]),
            Self::Repair => host.command(["verify", "--repair"]),
            _ => host.run_command(&["--jobs", "1"]),
        }
    }

    /// Faults that belong to the scenario itself.
    fn faults(self) -> &'static str {
        match self {
            Self::UndoneRun => "exchange:2:ENOMEM+,",
            _ => "",
        }
    }
}

fn deunify(host: &Host, guest: usize) -> Command {
    let root = OsString::from(&host.guests[guest]);
    host.command(["deunify".into(), "--manually".into(), root])
}

fn killed(command: &mut Command, faults: &str) {
    let output = output(command.env(VARIABLE, faults));
    assert!(is_killed(&output), "{faults}: {output:?}");
}

fn is_killed(output: &Output) -> bool {
    output.status.signal() == Some(9)
}

/// Writes to a file that a killed run has left under a temporary name only, as a process does that
/// had resolved the name before it was exchanged.
fn write_to_a_leftover(host: &Host) {
    let leftover = host
        .guests
        .iter()
        .flat_map(|guest| support::snapshot::paths(guest))
        .find(|path| is_reserved(path))
        .expect("a temporary name");
    fs::write(leftover, WRITTEN).unwrap();
}

/// What every path is to be in the end: as it is now, but what was written to the leftover of a
/// killed run is to be found under the names that the leftover serves.
fn expected(host: &Host) -> Vec<Snapshot> {
    let mut all = snapshots(host);
    for snapshot in &mut all {
        let written: Vec<(PathBuf, Entry)> = snapshot
            .0
            .iter()
            .filter(|(path, entry)| {
                is_reserved(path)
                    && matches!(entry.content, Found::File(size, _) if size == WRITTEN.len() as u64)
            })
            .map(|(path, entry)| (path.clone(), entry.clone()))
            .collect();
        let served: Vec<PathBuf> = written
            .iter()
            .map(|(path, _)| served_by(path, snapshot))
            .collect();
        for (path, (_, entry)) in served.iter().zip(&written) {
            let mut entry = entry.clone();
            entry.first_name.clone_from(served.iter().min().unwrap());
            snapshot.0.insert(path.clone(), entry);
        }
        snapshot.0.retain(|path, _| !is_reserved(path));
    }
    all
}

/// The name that a temporary name serves: `.vhashify-` and 32 digits of the name's BLAKE3.
fn served_by(temporary: &Path, snapshot: &Snapshot) -> PathBuf {
    let wanted = temporary.file_name().unwrap().to_str().unwrap();
    let is_served = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default();
        let digest = blake3::hash(name.as_encoded_bytes()).to_hex();
        path.parent() == temporary.parent() && wanted == format!(".vhashify-{}", &digest[..32])
    };
    snapshot.0.keys().find(is_served).expect("a name").clone()
}

struct Case {
    scenario: Scenario,
    faults: String,
}

/// A fresh directory for each case.
fn place_in(filesystem: &Filesystem) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    filesystem.path().join(format!("case{number}"))
}

/// Disturbs a command, checks, lets a run finish, and checks again. Returns what the command did.
fn disturb(case: &Case, filesystem: &Filesystem) -> Output {
    let place = place_in(filesystem);
    let host = case.scenario.prepare(&place);
    let before = expected(&host);
    let what = format!("{:?} {}", case.scenario, case.faults);
    let faults = format!("{}{}", case.scenario.faults(), case.faults);
    let disturbed = output(case.scenario.command(&host).env(VARIABLE, faults));

    // The written file reaches its name with the recovery, not before.
    if case.scenario != Scenario::RunAfterKilledRunAndWrite {
        for (before, now) in before.iter().zip(snapshots(&host)) {
            at_any_moment(before).assert_same(&at_any_moment(&now), &format!("at once, {what}"));
        }
    }
    check_objects(&host.store());

    let report = host.run(&[]);
    assert_eq!(report["errors"].as_array().unwrap().len(), 0, "{what}");
    for (before, now) in before.iter().zip(snapshots(&host)) {
        if case.scenario == Scenario::RunAfterKilledRun
            || case.scenario == Scenario::RunAfterKilledDeunify
        {
            // Before the recovery a link group was half way; the scenarios that begin with whole
            // ones check that it is whole again.
            at_any_moment(before).assert_same(&at_any_moment(&now), &format!("after, {what}"));
            assert_groups(&host, &what);
        } else {
            after_recovery(before).assert_same(&after_recovery(&now), &format!("after, {what}"));
        }
    }
    check_store(&host.store());
    host.call(["verify", "--deep"]);
    for guest in 0..host.guests.len() {
        host.deunify(guest, &[]);
    }
    host.call(["gc"]);
    let left = check_store(&host.store());
    assert!(left.is_empty(), "{what}: gc left {left:?}");
    fs::remove_dir_all(&place).unwrap();
    disturbed
}

/// The link groups that [`equal_guests`] made are single files.
fn assert_groups(host: &Host, what: &str) {
    for guest in &host.guests {
        for number in (0..FILES).step_by(3) {
            let file = guest.join(format!("d{}/file{number}", number % 7));
            for name in 0..=number % 4 {
                let directory = (number + name) % 7;
                let link = guest.join(format!("d{directory}/link{number}-{name}"));
                let inodes = [&file, &link].map(|path| support::tree::inode(path));
                assert_eq!(inodes[0], inodes[1], "inv3: {} {what}", link.display());
            }
        }
    }
}

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
        .collect();
    assert_eq!(never, [""; 0], "no scenario comes to these points");
}

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
            let disturbed = output(command.env(VARIABLE, faults));
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
        let output = output(host.run_command(&[]).env(VARIABLE, faults));
        assert!(output.status.success(), "{output:?}");
        for (before, now) in before.iter().zip(snapshots(&host)) {
            before.assert_same(&now, "after EMLINK");
        }
        check_store(&host.store());
    });
}
