//! The directory beside the store in which temporary names lie: what a killed run leaves there is finished or undone by a
//! later run that has the guest, wherever the guest has moved its directories; and what is wrong with the directory is
//! said and costs no file anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use vhashify_testkit::built::{FAULTS, assert_faults_happen};
use vhashify_testkit::disturb::{is_killed, with_moves};
use vhashify_testkit::filesystem::{Filesystem, Kind, on_each};
use vhashify_testkit::moments::{assert_same, snapshots};
use vhashify_testkit::program::{Host, json, output};
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, make_file};
use vhashify_testkit::work::{assert_tidy, temporary_names, work_directory};

const SHARED: Content = Content {
    size: 5000,
    variant: 0,
};
const GROUP: [&str; 2] = ["d/name", "e/other"];

/// Guests with an equal file of two names, in two directories.
fn equal(place: &Path, count: usize) -> Host {
    let host = Host::new(place, count);
    for guest in &host.guests {
        make_file(&guest.join(GROUP[0]), SHARED, PLAIN);
        fs::create_dir(guest.join("e")).unwrap();
        fs::hard_link(guest.join(GROUP[0]), guest.join(GROUP[1])).unwrap();
    }
    host
}

fn disturbed(host: &Host, faults: &str) -> Output {
    assert_faults_happen();
    output(host.run_command(&["--jobs", "1"]).env(FAULTS, faults))
}

/// A run over all guests is killed when the names of one of them were exchanged as far as `faults` say.
fn killed(place: &Path, faults: &str) -> Host {
    let host = equal(place, 2);
    let killed = disturbed(&host, faults);
    assert!(is_killed(&killed), "{killed:?}");
    host
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The guest that has been given names of the other one's inode by a killed run, or is about to be.
fn replaced(host: &Host) -> PathBuf {
    let names = temporary_names(&host.store());
    let is_its = |guest: &&PathBuf| {
        let paths = GROUP.map(|name| guest.join(name));
        names
            .iter()
            .any(|name| paths.iter().any(|path| name.serves(path)))
    };
    host.guests.iter().find(is_its).unwrap().clone()
}

#[test]
fn inv3_and_6_a_killed_runs_names_are_found_where_the_guest_has_moved_their_directory() {
    on_each(|filesystem| {
        for (number, faults) in [
            "exchange:1:kill-after",
            "exchange:2:kill-after",
            "temporary-unlink:1:kill-after",
        ]
        .into_iter()
        .enumerate()
        {
            let host = killed(&filesystem.path().join(number.to_string()), faults);
            let guest = replaced(&host);
            for directory in ["d", "e"] {
                fs::create_dir_all(guest.join("moved/far")).unwrap();
                fs::rename(
                    guest.join(directory),
                    guest.join("moved/far").join(directory),
                )
                .unwrap();
            }
            host.run(&[]);
            let moved = GROUP.map(|name| guest.join("moved/far").join(name));
            assert_eq!(inode(&moved[0]), inode(&moved[1]), "inv3: after {faults}");
            for path in &moved {
                assert_eq!(fs::read(path).unwrap(), SHARED.bytes());
            }
            assert_tidy(&host.store(), faults);
            check_store(&host.store());
        }
    });
}

#[test]
fn inv6_what_a_killed_run_left_of_a_guest_waits_for_a_run_with_that_guest() {
    on_each(|filesystem| {
        let host = killed(filesystem.path(), "exchange:1:kill-after");
        let guest = replaced(&host);
        let left = temporary_names(&host.store());
        let mut others = host.clone();
        others.guests.retain(|other| *other != guest);
        for name in ["new", "newer"] {
            let other = filesystem.path().join(name);
            make_file(&other.join("d/name"), SHARED, PLAIN);
            others.guests.push(other);
        }
        let without = json(others.run_command(&[]));
        assert_eq!(without["errors"].as_array().unwrap().len(), 0);
        assert_eq!(
            temporary_names(&host.store()),
            left,
            "it is not theirs to decide"
        );
        host.run(&[]);
        let group = GROUP.map(|name| inode(&guest.join(name)));
        assert_eq!(group[0], group[1], "inv3");
        assert_tidy(&host.store(), "a run with the guest");
    });
}

#[test]
fn inv7_what_a_killed_run_left_of_a_directory_that_is_gone_goes_too() {
    on_each(|filesystem| {
        let host = killed(filesystem.path(), "temporary-unlink:1:kill-before");
        let guest = replaced(&host);
        assert_eq!(temporary_names(&host.store()).len(), 2);
        fs::remove_dir_all(guest.join("d")).unwrap();
        fs::remove_dir_all(guest.join("e")).unwrap();
        host.run(&[]);
        assert_tidy(&host.store(), "an object has the same content");
    });
}

#[test]
fn inv1_a_work_directory_that_is_removed_in_the_middle_costs_no_file_anything() {
    on_each(|filesystem| {
        for (number, stop) in ["temporary-link:1:stop-before", "exchange:1:stop-before"]
            .into_iter()
            .enumerate()
        {
            let host = equal(&filesystem.path().join(number.to_string()), 2);
            let before = snapshots(&host);
            let said = with_moves(
                host.run_command(&["--jobs", "1"]),
                stop,
                &[&|| fs::remove_dir_all(work_directory(&host.store())).unwrap()],
            );
            assert_same(&before, &host, stop);
            if number == 0 {
                assert!(said.contains("work directory"), "{said}");
            }
            let report = host.run(&[]);
            assert_eq!(report["files_unified"], 2, "{stop}");
        }
    });
}

#[test]
fn inv1_a_disk_that_takes_no_work_directory_is_reported_and_no_guest_feels_it() {
    on_each(|filesystem| {
        let host = equal(filesystem.path(), 2);
        let before = snapshots(&host);
        let refused = disturbed(&host, "work-directory:1:ENOSPC+");
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(said(&refused).contains("no space left"), "{refused:?}");
        assert_same(&before, &host, "without a work directory");
        assert_eq!(host.run(&[])["files_unified"], 2);
    });
}

/// A guest's user who may write beside the store could have made it, and would have every displaced file.
#[test]
fn inv4_a_work_directory_that_others_made_or_may_enter_is_not_used() {
    on_each(|filesystem| {
        let host = equal(filesystem.path(), 2);
        let work = work_directory(&host.store());
        let before = snapshots(&host);
        let refuse = |how: &str| {
            let refused = output(&mut host.run_command(&[]));
            assert_ne!(refused.status.code(), Some(0), "{how}");
            assert!(
                said(&refused).contains("work directory"),
                "{how}: {refused:?}"
            );
            assert_same(&before, &host, how);
        };
        fs::create_dir(&work).unwrap();
        fs::set_permissions(&work, fs::Permissions::from_mode(0o755)).unwrap();
        refuse("others may enter it");
        fs::set_permissions(&work, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&work, Some(1000), None).unwrap();
        refuse("it is somebody else's");
        fs::remove_dir(&work).unwrap();
        symlink(&host.guests[0], &work).unwrap();
        refuse("it leads elsewhere");
        fs::remove_file(&work).unwrap();
        host.run(&[]);
    });
}

/// Only the host's root can put anything there.
#[test]
fn inv1_names_in_the_work_directory_that_no_run_made_are_left_alone() {
    on_each(|filesystem| {
        let host = equal(filesystem.path(), 2);
        let place = work_directory(&host.store()).join("0");
        fs::create_dir_all(&place).unwrap();
        fs::set_permissions(place.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
        let digits = "0123456789abcdef0123456789abcdef";
        fs::write(place.join("notes"), "an administrator's").unwrap();
        fs::write(
            place.join(format!("share-2-0-0-{digits}")),
            "unlike any object",
        )
        .unwrap();
        fs::create_dir(place.join(format!("own-2-0-0-{digits}"))).unwrap();
        symlink("/etc/passwd", place.join(format!("own-3-0-0-{digits}"))).unwrap();
        let report = host.run(&[]);
        assert_eq!(report["files_unified"], 2);
        let mut left: Vec<String> = fs::read_dir(&place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let all = [
            "notes".to_owned(),
            format!("own-2-0-0-{digits}"),
            format!("own-3-0-0-{digits}"),
            format!("share-2-0-0-{digits}"),
        ];
        assert_eq!(left, all);
    });
}

/// What the guest does between the death of a run and the next one, with names that the dead one has exchanged.
#[test]
fn inv3_names_that_a_guest_links_or_moves_after_a_run_was_killed_stay_names_of_the_same_file() {
    on_each(|filesystem| {
        for (number, fault) in ["exchange:1:kill-after", "exchange:2:kill-after"]
            .into_iter()
            .enumerate()
        {
            for (way, is_moved) in [("linked", false), ("moved", true)] {
                let host = killed(&filesystem.path().join(format!("{number}{way}")), fault);
                let guest = replaced(&host);
                let left = temporary_names(&host.store());
                let is_served = |name: &&&str| left.iter().any(|one| one.serves(&guest.join(name)));
                let first = GROUP.iter().find(is_served).unwrap();
                if number == 1 {
                    // A process that had resolved the name writes: all goes back.
                    fs::write(&left[0].path, "written").unwrap();
                }
                let new = guest.join("new");
                if is_moved {
                    fs::rename(guest.join(first), &new).unwrap();
                } else {
                    fs::hard_link(guest.join(first), &new).unwrap();
                }
                let names: Vec<_> = GROUP
                    .iter()
                    .map(|name| guest.join(name))
                    .chain([new])
                    .filter(|path| path.exists())
                    .collect();
                drop(output(&mut host.run_command(&[])));
                let inodes: Vec<u64> = names.iter().map(|path| inode(path)).collect();
                assert!(
                    inodes.iter().all(|one| *one == inodes[0]),
                    "inv3: {fault} {way}: {names:?} {inodes:?}"
                );
                assert_tidy(&host.store(), fault);
            }
        }
    });
}

/// The guest moves another file to the name, whose content is shared, too.
#[test]
fn inv1_what_a_guest_put_at_a_name_after_a_run_was_killed_stays_there() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        for guest in &host.guests {
            make_file(
                &guest.join("newer"),
                Content {
                    size: 70,
                    variant: 3,
                },
                PLAIN,
            );
        }
        host.run(&[]);
        for guest in &host.guests {
            make_file(&guest.join(GROUP[0]), SHARED, PLAIN);
            fs::create_dir(guest.join("e")).unwrap();
            fs::hard_link(guest.join(GROUP[0]), guest.join(GROUP[1])).unwrap();
        }
        assert!(is_killed(&disturbed(&host, "exchange:1:kill-after")));
        let guest = replaced(&host);
        let left = temporary_names(&host.store());
        let is_served = |name: &&&str| left.iter().any(|one| one.serves(&guest.join(name)));
        let first = GROUP.iter().find(is_served).unwrap();
        fs::rename(guest.join("newer"), guest.join(first)).unwrap();
        let newer = fs::read(guest.join(first)).unwrap();
        drop(output(&mut host.run_command(&[])));
        assert_eq!(fs::read(guest.join(first)).unwrap(), newer, "inv1");
        assert_tidy(&host.store(), "after the run");
    });
}

/// A guest removes a directory, and another guest makes one, which gets the same inode number.
#[test]
fn inv4_what_was_left_of_a_directory_is_nothing_of_the_next_one_with_its_number() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = killed(filesystem.path(), "exchange:1:kill-after");
    let guest = replaced(&host);
    let other = host.guests.iter().find(|other| **other != guest).unwrap();
    let left = temporary_names(&host.store());
    let first = GROUP
        .iter()
        .find(|name| left.iter().any(|one| one.serves(&guest.join(name))))
        .unwrap();
    let directory = guest.join(first);
    let number = inode(directory.parent().unwrap());
    let private = GROUP.iter().find(|name| *name != first).unwrap();
    let private = inode(&guest.join(private));
    fs::remove_dir_all(directory.parent().unwrap()).unwrap();
    let made = (0..2000)
        .map(|count| other.join(format!("new{count}")))
        .find(|path| {
            fs::create_dir(path).unwrap();
            inode(path) == number
        });
    let made = made.expect("ext4 gives numbers again");
    let name = directory.file_name().unwrap();
    fs::rename(other.join(first), made.join(name)).unwrap();
    drop(output(&mut host.run_command(&[])));
    let names: Vec<u64> = [made.join(name)].iter().map(|path| inode(path)).collect();
    assert!(
        !names.contains(&private),
        "inv4: the other guest has this one's file"
    );
}

/// A store that is made anew has another inode number, and no run looks beside the old one.
#[test]
fn inv1_what_was_left_beside_a_store_that_is_gone_is_named_and_stays() {
    on_each(|filesystem| {
        let host = killed(filesystem.path(), "temporary-unlink:1:kill-before");
        let old = work_directory(&host.store());
        let left = temporary_names(&host.store());
        let aside = host.store().with_file_name("restored");
        fs::create_dir(&aside).unwrap();
        fs::remove_dir_all(host.store()).unwrap();
        fs::rename(aside, host.store()).unwrap();
        let run = output(&mut host.run_command(&[]));
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        let path = old.file_name().unwrap().to_str().unwrap();
        assert!(
            said(&run).contains(path) && said(&run).contains("its store is not there"),
            "{run:?}"
        );
        for name in left {
            assert_eq!(fs::read(name.path).unwrap(), SHARED.bytes());
        }
        fs::remove_dir_all(old).unwrap();
        host.run(&[]);
    });
}
