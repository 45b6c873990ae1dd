//! Breaks beside `deunify`, beside a run, and beside what the killed ones among them have left.
#![cfg(feature = "fault-injection")]

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vhashify_testkit::built::{FAULTS, assert_faults_happen};
use vhashify_testkit::disturb::{is_killed, with_moves};
use vhashify_testkit::filesystem::{Filesystem, Kind};
use vhashify_testkit::moments::{assert_recovered, snapshots};
use vhashify_testkit::program::{Host, output};
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::work::assert_tidy;

use super::engine::{break_path, break_with, breaker, ino, place_in, shared_guests};

const GROUP: [&str; 4] = ["d/group0", "d/group1", "e/group2", "e/group3"];

fn deunify(host: &Host) -> Command {
    let root = OsString::from(&host.guests[0]);
    host.command([
        "deunify".into(),
        "--manually".into(),
        root,
        "d".into(),
        "e".into(),
    ])
}

fn append(path: &Path) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"written").unwrap();
}

fn assert_one_file(host: &Host, when: &str) {
    let all = GROUP.map(|name| ino(host, 0, name));
    assert!(
        all.iter().all(|one| *one == all[0]),
        "inv3: {when}: {all:?}"
    );
}

/// Breaks the group by whichever of its names still leads to the object. `None` where none does.
fn break_group(
    host: &Host,
    breaker: &vhashify::broker::break_link::Breaker,
) -> Option<Result<(), String>> {
    let object = ino(host, 1, GROUP[0]);
    let name = GROUP
        .iter()
        .rev()
        .find(|name| ino(host, 0, name) == object)?;
    Some(break_path(breaker, name))
}

#[test]
fn inv3_a_break_waits_for_a_group_that_deunify_has_in_hand() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for hit in 1..=6 {
        for moment in ["stop-before", "stop-after"] {
            let stop = format!("exchange:{hit}:{moment}");
            let host = shared_guests(&place_in(&filesystem));
            let before = snapshots(&host);
            let breaker = RefCell::new(Some(breaker(&host, 0)));
            let at_work: RefCell<Option<JoinHandle<_>>> = RefCell::default();
            let of = host.clone();
            with_moves(
                deunify(&host),
                &stop,
                &[&|| {
                    let (of, breaker) = (of.clone(), breaker.take().unwrap());
                    at_work.replace(Some(thread::spawn(move || break_group(&of, &breaker))));
                    thread::sleep(Duration::from_millis(300));
                }],
            );
            let broken = at_work.take().unwrap().join().unwrap();
            assert!(
                broken
                    .is_none_or(|broken| broken.is_ok() || broken == Err("it is no object".into())),
                "{stop}"
            );
            assert_one_file(&host, &stop);
            host.run(&[]);
            assert_one_file(&host, &format!("{stop}, and a run"));
            assert_recovered(&before, &host, &stop);
            check_store(&host.store());
            assert_tidy(&host.store(), &stop);
        }
    }
}

#[test]
fn inv3_a_break_goes_on_with_the_copy_of_a_killed_deunify() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for hit in 1..=6 {
        for moment in ["kill-before", "kill-after"] {
            let fault = format!("exchange:{hit}:{moment}");
            let host = shared_guests(&place_in(&filesystem));
            let before = snapshots(&host);
            // A broker that lives already, and has broken a link.
            let breaker = breaker(&host, 0);
            break_path(&breaker, "d/single").unwrap();
            assert_faults_happen();
            let killed = output(deunify(&host).env(FAULTS, &fault));
            if !is_killed(&killed) {
                continue;
            }
            if let Some(broken) = break_group(&host, &breaker) {
                broken.unwrap();
            }
            assert_one_file(&host, &fault);
            host.run(&[]);
            assert_recovered(&before, &host, &fault);
            check_store(&host.store());
        }
    }
}

/// The copy has taken some of the names, and the guest writes to it, before a run finishes the break.
#[test]
fn inv1_a_copy_that_is_written_to_before_its_break_is_finished_gets_no_name_of_ours() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for fault in [
        "exchange:2:kill-before",
        "exchange:3:kill-before",
        "exchange:2:kill-after",
    ] {
        let host = shared_guests(&place_in(&filesystem));
        let object = ino(&host, 1, GROUP[0]);
        assert!(is_killed(&break_with(&host, "d/group0", fault)));
        let copy = GROUP
            .iter()
            .find(|name| ino(&host, 0, name) != object)
            .unwrap();
        let path = host.guests[0].join(copy);
        append(&path);
        let written = fs::read(&path).unwrap();
        host.run(&[]);
        assert_one_file(&host, fault);
        for name in GROUP {
            assert_eq!(
                fs::read(host.guests[0].join(name)).unwrap(),
                written,
                "{fault}"
            );
        }
        assert_eq!(fs::metadata(&path).unwrap().nlink(), 4, "{fault}");
        assert_tidy(&host.store(), fault);
    }
}

/// The guest puts another file at the name in the instant of the exchange, and opens it for writing.
#[test]
fn inv1_a_file_that_is_swapped_in_during_a_break_is_not_lost_to_who_writes_to_it() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for (stops, group) in [
        ("exchange:1:stop-before,exchange:1:stop-after", "d/single"),
        ("exchange:2:stop-before,exchange:2:stop-after", "d/group0"),
    ] {
        let host = shared_guests(&place_in(&filesystem));
        let guest = &host.guests[0];
        fs::write(guest.join("newer"), "newer").unwrap();
        let object = ino(&host, 1, group);
        let names: Vec<_> = if group == "d/single" {
            vec![guest.join(group)]
        } else {
            GROUP.iter().map(|name| guest.join(name)).collect()
        };
        let is = |inode| {
            let all = names.iter();
            all.filter(move |path| fs::metadata(path).unwrap().ino() == inode)
                .cloned()
                .collect::<Vec<_>>()
        };
        let writer: RefCell<Option<JoinHandle<()>>> = RefCell::default();
        let taken = RefCell::default();
        let swap = || {
            // Which name is next nobody says: the one that has the temporary name.
            let left = vhashify_testkit::work::temporary_names(&host.store());
            let next = is(object)
                .into_iter()
                .find(|path| left.iter().any(|one| one.serves(path)))
                .unwrap();
            fs::rename(guest.join("newer"), &next).unwrap();
            taken.replace(next);
        };
        let write = || {
            let path: PathBuf = taken.borrow().clone();
            writer.replace(Some(thread::spawn(move || append(&path))));
            thread::sleep(Duration::from_millis(200));
        };
        let said = with_moves(
            super::engine::break_command(&host, group),
            stops,
            &[&swap, &write],
        );
        writer.take().unwrap().join().unwrap();
        drop(host.run_command(&[]).output().unwrap());
        let found = fs::read_to_string(&*taken.borrow()).unwrap_or_default();
        assert!(
            found.starts_with("newer"),
            "inv1: {stops}: {found:.20}: {said}"
        );
    }
}

/// Another guest changes its names of the object meanwhile, so that the copy is to be taken back.
#[test]
fn inv1_a_deunify_takes_no_copy_back_that_a_process_waits_to_write_to() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for (stop, name) in [
        ("exchange:1:stop-after", "d/single"),
        ("exchange:4:stop-after", "d/group0"),
    ] {
        let host = shared_guests(&place_in(&filesystem));
        let writers: RefCell<Vec<JoinHandle<()>>> = RefCell::default();
        let object = |name: &str| ino(&host, 1, name);
        let names = [
            "d/single", "d/odd", "d/group0", "d/group1", "e/group2", "e/group3",
        ];
        let of_copies = RefCell::default();
        with_moves(
            deunify(&host),
            stop,
            &[&|| {
                let copied: Vec<PathBuf> = names
                    .iter()
                    .filter(|one| ino(&host, 0, one) != object(one))
                    .map(|one| host.guests[0].join(one))
                    .collect();
                for path in &copied {
                    let path = path.clone();
                    writers
                        .borrow_mut()
                        .push(thread::spawn(move || append(&path)));
                }
                of_copies.replace(copied);
                thread::sleep(Duration::from_millis(200));
                for name in names {
                    fs::hard_link(
                        host.guests[1].join(name),
                        host.guests[1].join(name.replace('/', "-")),
                    )
                    .unwrap();
                }
            }],
        );
        for writer in writers.take() {
            writer.join().unwrap();
        }
        drop(host.run_command(&[]).output().unwrap());
        for path in &*of_copies.borrow() {
            assert!(
                fs::read(path).unwrap().ends_with(b"written"),
                "inv1: {stop}: {name}: {path:?}"
            );
        }
        assert_one_file(&host, stop);
    }
}

/// The broker is killed, and the next one begins while a run tidies up after it.
#[test]
fn inv3_a_break_goes_on_with_a_dead_brokers_copy_beside_a_run() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for stop in [
        "temporary-link:1:stop-before",
        "exchange:1:stop-before",
        "exchange:1:stop-after",
        "recover-unlink:1:stop-before",
    ] {
        let host = shared_guests(&place_in(&filesystem));
        assert!(is_killed(&break_with(
            &host,
            "d/group0",
            "exchange:2:kill-after"
        )));
        let at_work: RefCell<Option<JoinHandle<_>>> = RefCell::default();
        let begin = || {
            let of = host.clone();
            at_work.replace(Some(thread::spawn(move || {
                break_group(&of, &breaker(&of, 0))
            })));
            thread::sleep(Duration::from_millis(300));
        };
        with_moves(host.run_command(&["--jobs", "1"]), stop, &[&begin]);
        drop(at_work.take().unwrap().join().unwrap());
        assert_one_file(&host, stop);
        host.run(&[]);
        assert_one_file(&host, stop);
        assert_tidy(&host.store(), stop);
    }
}

/// A run was killed in the middle of a group, and the guest has linked a name that it had exchanged.
#[test]
fn inv3_a_break_puts_all_names_back_that_a_killed_run_had_exchanged() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for fault in ["exchange:1:kill-after", "exchange:2:kill-after"] {
        let host = Host::new(&place_in(&filesystem), 2);
        for guest in &host.guests {
            fs::create_dir_all(guest.join("d")).unwrap();
            fs::create_dir_all(guest.join("e")).unwrap();
            fs::write(guest.join(GROUP[0]), "content").unwrap();
            Command::new("touch")
                .args(["-d", "2021-01-01"])
                .arg(guest.join(GROUP[0]))
                .status()
                .unwrap();
            for name in &GROUP[1..] {
                fs::hard_link(guest.join(GROUP[0]), guest.join(name)).unwrap();
            }
        }
        let killed = output(host.run_command(&["--jobs", "1"]).env(FAULTS, fault));
        assert!(is_killed(&killed), "{fault}");
        let left = vhashify_testkit::work::temporary_names(&host.store());
        let serves = |number: usize, name: &str| {
            let path = host.guests[number].join(name);
            left.iter().any(|one| one.serves(&path))
        };
        let number = usize::from(!GROUP.iter().any(|name| serves(0, name)));
        let name = GROUP.iter().find(|name| serves(number, name)).unwrap();
        let new = host.guests[number].join("new");
        fs::hard_link(host.guests[number].join(name), &new).unwrap();
        let breaker = breaker(&host, number);
        drop(break_path(&breaker, "new"));
        drop(break_path(&breaker, name));
        let inodes = GROUP.map(|name| ino(&host, number, name));
        let new = fs::metadata(&new).unwrap().ino();
        assert!(
            inodes.iter().all(|one| *one == new),
            "inv3: {fault}: {inodes:?} {new}"
        );
        host.run(&[]);
        assert_tidy(&host.store(), fault);
    }
}
