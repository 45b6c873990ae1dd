//! A command that is disturbed at a fault point, and what must hold then: at once, and after the next
//! run.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::built::{FAULTS, assert_faults_happen};
use super::filesystem::Filesystem;
use super::moments::{after_recovery, at_any_moment, check_objects, equal_guests, snapshots};
use super::program::{Host, output, spawn};
use super::snapshot::{Content as Found, Snapshot, check_store};
use super::tree::{Content, PLAIN, make_file};
use super::work::{TemporaryName, assert_tidy, temporary_names, work_directory};

const FILES: u64 = 10;
const WRITTEN: &str = "written while no run held a lease";

/// Stops `command` wherever `stops` says, does the next of `moves` each time, and lets it end. What it
/// said on standard error.
pub fn with_moves(mut command: Command, stops: &str, moves: &[&dyn Fn()]) -> String {
    assert_faults_happen();
    let child = spawn(command.env(FAULTS, stops));
    let pid = Pid::from_child(&child);
    for step in moves {
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "it did not come to {stops}: {status:?}");
        step();
        kill_process(pid, Signal::CONT).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    said
}

/// A state to begin with and a command that is to be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing is shared yet.
    FirstRun,
    /// Most is shared, and a guest has new files and new names.
    LaterRun,
    /// No name but the first of a link group can be exchanged, so that it is undone. What became an object stays one.
    UndoneRun,
    /// No second guest can link what became an object, which is a private file again.
    UnjoinedRun,
    /// A run was killed in the middle of a link group.
    RunAfterKilledRun,
    /// A run was killed while it made its replacements final, and a process wrote since.
    RunAfterKilledRunAndWrite,
    /// `deunify` was killed in the middle of a link group.
    RunAfterKilledDeunify,
    /// The index is damaged.
    RunWithDamagedIndex,
    /// A guest gets its own files back.
    Deunify,
    /// Objects that no guest has go.
    Collect,
    /// An index is written anew from the store.
    Repair,
}

impl Scenario {
    /// Every scenario.
    pub const ALL: [Self; 11] = [
        Self::FirstRun,
        Self::LaterRun,
        Self::UndoneRun,
        Self::UnjoinedRun,
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
        if matches!(self, Self::UndoneRun | Self::UnjoinedRun) {
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
            Self::FirstRun | Self::UndoneRun | Self::UnjoinedRun => {}
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
            Self::UnjoinedRun => "temporary-link:1:EMLINK+,",
            _ => "",
        }
    }
}

fn deunify(host: &Host, guest: usize) -> Command {
    let root = OsString::from(&host.guests[guest]);
    host.command(["deunify".into(), "--manually".into(), root])
}

fn killed(command: &mut Command, faults: &str) {
    assert_faults_happen();
    let output = output(command.env(FAULTS, faults));
    assert!(is_killed(&output), "{faults}: {output:?}");
}

/// Whether SIGKILL ended it.
pub fn is_killed(output: &Output) -> bool {
    output.status.signal() == Some(9)
}

/// Writes to a file that a killed run has left under a temporary name only, as a process does that
/// had resolved the name before it was exchanged.
fn write_to_a_leftover(host: &Host) {
    let left = temporary_names(&host.store());
    let leftover = left.first().expect("a temporary name");
    fs::write(&leftover.path, WRITTEN).unwrap();
}

/// What every path is to be in the end: as it is now, but what was written to the leftover of a
/// killed run is to be found under the names that the leftover serves.
fn expected(host: &Host) -> Vec<Snapshot> {
    let mut all = snapshots(host);
    let work = work_directory(&host.store());
    for leftover in temporary_names(&host.store()) {
        let left = Snapshot::of(&work);
        let entry = &left.0[leftover.path.strip_prefix(&work).unwrap()];
        if !matches!(entry.content, Found::File(size, _) if size == WRITTEN.len() as u64) {
            continue;
        }
        for (guest, snapshot) in host.guests.iter().zip(&mut all) {
            let group: Vec<PathBuf> = served_with(&leftover, guest, snapshot);
            for path in &group {
                let mut entry = entry.clone();
                entry.first_name.clone_from(group.iter().min().unwrap());
                snapshot.0.insert(path.clone(), entry);
            }
        }
    }
    all
}

/// The name that a leftover serves in a guest, with all names that the same run has replaced for the same file.
fn served_with(leftover: &TemporaryName, guest: &Path, snapshot: &Snapshot) -> Vec<PathBuf> {
    let is_served = |path: &&PathBuf| leftover.serves(&guest.join(path));
    let served = snapshot.0.keys().find(is_served);
    let first = served.map(|path| &snapshot.0[path].first_name);
    let names = snapshot.0.iter();
    let group = names.filter(|(_, entry)| Some(&entry.first_name) == first);
    group.map(|(path, _)| path.clone()).collect()
}

/// What is disturbed, and how.
pub struct Case {
    /// What is disturbed.
    pub scenario: Scenario,
    /// As [`FAULTS`] takes them.
    pub faults: String,
}

/// A fresh directory for each case.
pub fn place_in(filesystem: &Filesystem) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    filesystem.path().join(format!("case{number}"))
}

/// Disturbs a command, checks, lets a run finish, and checks again. Returns what the command did.
pub fn disturb(case: &Case, filesystem: &Filesystem) -> Output {
    assert_faults_happen();
    let place = place_in(filesystem);
    let host = case.scenario.prepare(&place);
    let before = expected(&host);
    let what = format!("{:?} {}", case.scenario, case.faults);
    let faults = format!("{}{}", case.scenario.faults(), case.faults);
    let disturbed = output(case.scenario.command(&host).env(FAULTS, faults));

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
    assert_tidy(&host.store(), &what);
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
                let inodes = [&file, &link].map(|path| super::tree::inode(path));
                assert_eq!(inodes[0], inodes[1], "inv3: {} {what}", link.display());
            }
        }
    }
}
