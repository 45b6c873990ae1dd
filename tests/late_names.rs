//! Names that are made, moved and removed by other guests, or by calls that were under way, just when a file
//! changes its inode. A run is stopped at these instants; a link that the host makes then stands for the
//! guest's `link(2)`, which had found its source before (`src/relink/stray_links.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use vhashify_testkit::built::FAULTS;
use vhashify_testkit::disturb::with_moves;
use vhashify_testkit::filesystem::{Filesystem, Kind, on_each};
use vhashify_testkit::program::{Host, spawn};
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, make_file};
use vhashify_testkit::work::{assert_tidy, temporary_names};

const SHARED: Content = Content {
    size: 5000,
    variant: 0,
};

/// Three guests with one equal file. The first and the last one share theirs already.
struct Scene {
    host: Host,
}

impl Scene {
    fn new(place: &Path) -> Self {
        let host = Host::new(place, 3);
        for number in [0, 2] {
            make_file(&host.guests[number].join("d/name"), SHARED, PLAIN);
        }
        host.run(&[]);
        make_file(&host.guests[1].join("d/name"), SHARED, PLAIN);
        for guest in &host.guests {
            fs::create_dir(guest.join("e")).unwrap();
        }
        Self { host }
    }

    fn path(&self, guest: usize, name: &str) -> PathBuf {
        self.host.guests[guest].join(name)
    }

    /// What stands behind the temporary name that serves one of the second guest.
    fn temporary(&self) -> PathBuf {
        let all = temporary_names(&self.host.store());
        all.into_iter().next().expect("a temporary name").path
    }

    /// These names of the second guest are one file, and nobody else's as far as they are not objects.
    fn assert_one(&self, names: &[&str]) {
        let inodes: Vec<u64> = names
            .iter()
            .map(|name| {
                let path = self.path(1, name);
                assert_eq!(fs::read(&path).unwrap(), SHARED.bytes(), "inv1: {name}");
                fs::metadata(path).unwrap().ino()
            })
            .collect();
        let first = inodes[0];
        assert!(
            inodes.iter().all(|&inode| inode == first),
            "inv3: {names:?} are {inodes:?}"
        );
        assert_tidy(&self.host.store(), "a run is over");
        check_store(&self.host.store());
    }

    fn assert_one_also_later(&self, names: &[&str]) {
        self.assert_one(names);
        self.host.run(&[]);
        self.assert_one(names);
        self.host.call(["verify", "--deep"]);
    }
}

#[test]
fn inv3_a_link_to_the_object_is_taken_back_when_another_guest_removed_its_own() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        with_moves(
            scene.host.run_command(&[]),
            "exchange:1:stop-after",
            &[&|| {
                fs::hard_link(scene.path(1, "d/name"), scene.path(1, "e/more")).unwrap();
                // The object has as many links as without it.
                fs::remove_file(scene.path(2, "d/name")).unwrap();
                // A new name of the old file: the replacement is taken back.
                fs::hard_link(scene.temporary(), scene.path(1, "e/old")).unwrap();
            }],
        );
        scene.assert_one_also_later(&["d/name", "e/more", "e/old"]);
    });
}

#[test]
fn inv3_a_link_to_the_object_that_comes_after_a_replacement_was_taken_back() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        with_moves(
            scene.host.run_command(&[]),
            "exchange:1:stop-after,walk:1:stop-after",
            &[
                &|| fs::hard_link(scene.temporary(), scene.path(1, "e/old")).unwrap(),
                &|| fs::hard_link(scene.path(0, "d/name"), scene.path(1, "e/late")).unwrap(),
            ],
        );
        scene.assert_one_also_later(&["d/name", "e/old", "e/late"]);
    });
}

#[test]
fn inv3_a_link_to_the_old_file_that_comes_after_the_last_look() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        with_moves(
            scene.host.run_command(&[]),
            "temporary-unlink:1:stop-before",
            &[&|| fs::hard_link(scene.temporary(), scene.path(1, "e/late")).unwrap()],
        );
        scene.assert_one_also_later(&["d/name", "e/late"]);
    });
}

/// Two files, so that the first one is done when the second one is stopped.
#[test]
fn inv3_a_link_to_the_object_that_comes_after_deunify_gave_it_up() {
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 2);
        let twin = Content {
            size: 6000,
            variant: 1,
        };
        for guest in &host.guests {
            make_file(&guest.join("d/name"), SHARED, PLAIN);
            make_file(&guest.join("d/twin"), twin, PLAIN);
        }
        host.run(&[]);
        let objects = ["d/name", "d/twin"].map(|name| {
            let path = host.guests[0].join(name);
            (name, fs::metadata(path).unwrap().ino())
        });
        for stops in [
            "temporary-unlink:1:stop-after",
            "temporary-unlink:2:stop-before",
        ] {
            let mut deunify = host.command(["deunify", "--manually"]);
            deunify.arg(&host.guests[1]);
            with_moves(
                deunify,
                stops,
                &[&|| {
                    for (name, object) in objects {
                        let path = host.guests[1].join(name);
                        if fs::metadata(&path).unwrap().ino() != object {
                            let late = format!("{name}-late");
                            let source = host.guests[0].join(name);
                            drop(fs::remove_file(host.guests[1].join(&late)));
                            fs::hard_link(source, host.guests[1].join(late)).unwrap();
                        }
                    }
                }],
            );
            for (name, _) in objects {
                let inode = |name: &str| fs::metadata(host.guests[1].join(name)).unwrap().ino();
                let late = format!("{name}-late");
                assert_eq!(inode(name), inode(&late), "inv3: {name} {stops}");
                fs::remove_file(host.guests[1].join(&late)).unwrap();
            }
            host.run(&[]);
            check_store(&host.store());
        }
    });
}

/// The link count of the object is that of the names that were found, and one guest has one that was not.
#[test]
fn inv3_a_name_that_was_moved_past_the_scan_while_another_guest_made_one() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let mut hit = 1;
    let mut is_over = false;
    while !is_over {
        for (from, to, other) in [("d", "e", 0), ("e", "d", 0), ("d", "e", 2), ("e", "d", 2)] {
            let place = filesystem.path().join(format!("{hit}-{from}-{other}"));
            let host = Host::new(&place, 3);
            for guest in &host.guests {
                fs::create_dir_all(guest.join("d")).unwrap();
                fs::create_dir_all(guest.join("e")).unwrap();
                make_file(&guest.join(from).join("name"), SHARED, PLAIN);
            }
            host.run(&[]);
            make_file(&host.guests[1].join("second"), SHARED, PLAIN);
            let mut run = host.run_command(&["--jobs", "1"]);
            let child = spawn(run.env(FAULTS, format!("open-directory:{hit}:stop-after")));
            let pid = Pid::from_child(&child);
            let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
            is_over = !status.stopped();
            if is_over {
                assert_eq!(status.exit_status(), Some(0));
                drop(child);
                break;
            }
            let [moved, there] = [from, to].map(|name| host.guests[1].join(name).join("name"));
            fs::rename(&moved, &there).unwrap();
            let [known, more] = [from, to].map(|name| host.guests[other].join(name).join("name"));
            fs::hard_link(&known, &more).unwrap();
            kill_process(pid, Signal::CONT).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.into_raw(), 0, "{output:?}");
            let inode = |path: &Path| fs::metadata(path).unwrap().ino();
            assert_ne!(
                inode(&there),
                inode(&host.guests[1].join("second")),
                "inv3: two files of one guest share an inode at {place:?}"
            );
        }
        hit += 1;
    }
    assert!(hit > 5, "the run was stopped at {hit} directories only");
}
