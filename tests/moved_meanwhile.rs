//! What a guest does in the few microseconds that no race would hit reliably: a run is stopped right
//! before and right after it exchanges a name, and the guest moves things at both moments. Whatever
//! stood in the place of the name in between is the guest's, and must be where the guest put it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use vhashify_testkit::built::FAULTS;
use vhashify_testkit::disturb::{is_killed, with_moves};
use vhashify_testkit::filesystem::{Filesystem, Kind, on_each};
use vhashify_testkit::program::{Host, output, spawn};
use vhashify_testkit::snapshot::{check_store, is_object, paths};
use vhashify_testkit::tree::{Content, PLAIN, make_file};
use vhashify_testkit::work::temporary_names;

const SHARED: Content = Content {
    size: 5000,
    variant: 0,
};

const AROUND_THE_EXCHANGE: &str = "exchange:1:stop-before,exchange:1:stop-after";

/// Two guests with one equal file, whose name in the second one a run is about to exchange.
struct Scene {
    host: Host,
    name: PathBuf,
    /// Another place in the same guest.
    other: PathBuf,
}

impl Scene {
    fn new(place: &Path) -> Self {
        let host = Host::new(place, 2);
        for guest in &host.guests {
            make_file(&guest.join("d/name"), SHARED, PLAIN);
            fs::create_dir(guest.join("e")).unwrap();
        }
        let (name, other) = (
            host.guests[1].join("d/name"),
            host.guests[1].join("e/other"),
        );
        Self { host, name, other }
    }

    fn swap(&self) {
        rustix::fs::renameat_with(CWD, &self.name, CWD, &self.other, RenameFlags::EXCHANGE)
            .unwrap();
    }

    fn run(&self, moves: &[&dyn Fn()]) -> String {
        with_moves(self.host.run_command(&[]), AROUND_THE_EXCHANGE, moves)
    }

    /// The guest has these paths and no others, and the file that was to be shared as it was.
    fn assert_whole(&self, expected: &[&str], of_the_file: &[&Path]) {
        let guest = &self.host.guests[1];
        let mut found: Vec<PathBuf> = paths(guest);
        found.retain(|path| !path.is_dir() || path.is_symlink());
        let mut wanted: Vec<PathBuf> = expected.iter().map(|path| guest.join(path)).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
        let mut inodes = Vec::new();
        for path in of_the_file {
            assert_eq!(
                fs::read(path).unwrap(),
                SHARED.bytes(),
                "{}",
                path.display()
            );
            inodes.push(fs::metadata(path).unwrap().ino());
        }
        inodes.dedup();
        assert!(inodes.len() < 2, "names of one file lead to several");
        check_store(&self.host.store());
    }

    /// And the next run has nothing to mend.
    fn assert_next_run(&self, expected: &[&str], of_the_file: &[&Path]) {
        self.host.run(&[]);
        self.assert_whole(expected, of_the_file);
        self.host.call(["verify", "--deep"]);
    }
}

const NEWER: &[u8] = b"a newer file of the guest";

#[test]
fn inv1_a_file_that_the_guest_swaps_in_before_the_exchange_and_out_after_it() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        fs::write(&scene.other, NEWER).unwrap();
        let said = scene.run(&[&|| scene.swap(), &|| scene.swap()]);
        assert_eq!(said, "");
        assert_eq!(fs::read(&scene.other).unwrap(), NEWER);
        let all = ["d/name", "e/other"];
        scene.assert_whole(&all, &[&scene.name]);
        scene.assert_next_run(&all, &[&scene.name]);
        assert_eq!(fs::read(&scene.other).unwrap(), NEWER);
    });
}

type Make<'a> = &'a dyn Fn(&Path);

#[test]
fn inv1_whatever_the_guest_swaps_in_is_where_the_guest_moved_it() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let node = |kind, path: &Path| rustix::fs::mknodat(CWD, path, kind, Mode::RUSR, 0).unwrap();
    let makes: [(&str, Make<'_>); 4] = [
        ("fifo", &|path| node(FileType::Fifo, path)),
        ("socket", &|path| node(FileType::Socket, path)),
        ("link", &|path| {
            std::os::unix::fs::symlink("nowhere", path).unwrap();
        }),
        ("directory", &|path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), NEWER).unwrap();
        }),
    ];
    for (what, make) in makes {
        for comes_back in [true, false] {
            let scene = Scene::new(&filesystem.path().join(format!("{what}-{comes_back}")));
            make(&scene.other);
            let swap = || scene.swap();
            let nothing = || ();
            let said = scene.run(&[&swap, if comes_back { &swap } else { &nothing }]);
            assert_eq!(said, "", "{what}");
            let (file, strange) = if comes_back {
                (&scene.name, &scene.other)
            } else {
                (&scene.other, &scene.name)
            };
            assert_eq!(fs::read(file).unwrap(), SHARED.bytes(), "{what}");
            let kind = fs::symlink_metadata(strange).unwrap().file_type();
            assert!(
                match what {
                    "fifo" => kind.is_fifo(),
                    "socket" => kind.is_socket(),
                    "link" => kind.is_symlink(),
                    _ => kind.is_dir() && fs::read(strange.join("inside")).unwrap() == NEWER,
                },
                "{what} is {kind:?}"
            );
        }
    }
}

#[test]
fn inv3_a_link_that_the_guest_makes_of_what_it_swapped_in() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        fs::write(&scene.other, NEWER).unwrap();
        let link = scene.host.guests[1].join("link");
        let said = scene.run(&[&|| scene.swap(), &|| {
            fs::hard_link(&scene.name, &link).unwrap();
        }]);
        assert_eq!(said, "");
        let all = ["d/name", "e/other", "link"];
        scene.assert_whole(&all, &[&scene.other]);
        for path in [&scene.name, &link] {
            assert_eq!(fs::read(path).unwrap(), NEWER);
        }
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&scene.name), inode(&link));
        scene.assert_next_run(&all, &[&scene.other]);
    });
}

#[test]
fn inv1_what_the_guest_swapped_in_and_removed_stays_removed() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        fs::write(&scene.other, NEWER).unwrap();
        let said = scene.run(&[&|| scene.swap(), &|| fs::remove_file(&scene.name).unwrap()]);
        assert_eq!(said, "");
        scene.assert_whole(&["e/other"], &[&scene.other]);
        scene.assert_next_run(&["e/other"], &[&scene.other]);
    });
}

#[test]
fn inv3_a_link_group_whose_second_name_the_guest_swaps_stays_whole() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        let guest = &scene.host.guests[1];
        for guest in &scene.host.guests {
            fs::create_dir(guest.join("a")).unwrap();
            fs::hard_link(guest.join("d/name"), guest.join("a/first")).unwrap();
        }
        fs::write(&scene.other, NEWER).unwrap();
        let stops = "exchange:2:stop-before,exchange:2:stop-after";
        // Whichever of both names comes second: its temporary name is still a link to the object.
        let second = || -> PathBuf {
            let objects = check_store(&scene.host.store());
            let is_object =
                |path: &PathBuf| objects.contains_key(&fs::metadata(path).unwrap().ino());
            let mut temporary = temporary_names(&scene.host.store()).into_iter();
            let waiting = temporary.find(|name| is_object(&name.path));
            let first = guest.join("a/first");
            if waiting.expect("a link to the object").serves(&first) {
                first
            } else {
                scene.name.clone()
            }
        };
        let chosen = std::cell::RefCell::new(PathBuf::new());
        let swap = |path: &Path| {
            rustix::fs::renameat_with(CWD, path, CWD, &scene.other, RenameFlags::EXCHANGE).unwrap();
        };
        let said = with_moves(
            scene.host.run_command(&[]),
            stops,
            &[
                &|| {
                    *chosen.borrow_mut() = second();
                    swap(&chosen.borrow());
                },
                &|| swap(&chosen.borrow()),
            ],
        );
        assert_eq!(said, "");
        let all = ["a/first", "d/name", "e/other"];
        let group = [guest.join("a/first"), scene.name.clone()];
        let group: Vec<&Path> = group.iter().map(PathBuf::as_path).collect();
        scene.assert_whole(&all, &group);
        assert_eq!(fs::read(&scene.other).unwrap(), NEWER);
        scene.assert_next_run(&all, &group);
    });
}

#[test]
fn inv1_what_was_swapped_in_and_has_no_place_that_can_be_told_is_kept_and_told() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        fs::write(&scene.other, NEWER).unwrap();
        let (third, fourth) = (
            scene.host.guests[1].join("third"),
            scene.host.guests[1].join("fourth"),
        );
        fs::write(&third, "third").unwrap();
        fs::write(&fourth, "fourth").unwrap();
        // In the instant of the exchange back something newer stands there, and in that of its undoing
        // again.
        let stops = "exchange:1:stop-before,exchange:1:stop-after,undo-exchange:1:stop-before,\
                     undo-exchange:1:stop-after";
        let exchange = |other: &Path| {
            rustix::fs::renameat_with(CWD, &scene.name, CWD, other, RenameFlags::EXCHANGE).unwrap();
        };
        let said = with_moves(
            scene.host.run_command(&[]),
            stops,
            &[&|| scene.swap(), &|| (), &|| exchange(&third), &|| {
                exchange(&fourth);
            }],
        );
        assert!(said.contains("misplaced"), "{said}");
        scene.host.run(&[]);
        let contents: Vec<Vec<u8>> = paths(&scene.host.guests[1])
            .into_iter()
            .filter(|path| path.is_file())
            .map(|path| fs::read(path).unwrap())
            .collect();
        for content in [NEWER, b"third", b"fourth", &SHARED.bytes()] {
            assert!(contents.iter().any(|found| found == content), "{said}");
        }
    });
}

#[test]
fn inv6_what_was_swapped_in_when_the_run_was_killed_and_lost_its_place_since_is_kept_and_told() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        fs::write(&scene.other, NEWER).unwrap();
        let stops = "exchange:1:stop-before,exchange:1:kill-after";
        let mut killed = scene.host.run_command(&[]);
        let child = spawn(killed.env(FAULTS, stops));
        let pid = Pid::from_child(&child);
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
        scene.swap();
        kill_process(pid, Signal::CONT).unwrap();
        assert!(is_killed(&child.wait_with_output().unwrap()));
        scene.swap();

        let found = output(&mut scene.host.run_command(&[]));
        let said = String::from_utf8_lossy(&found.stderr).into_owned();
        assert!(said.contains("misplaced"), "{said}");
        let mut everything = paths(&scene.host.guests[1])
            .into_iter()
            .filter(|path| path.is_file());
        assert!(
            everything.any(|path| fs::read(path).unwrap() == NEWER),
            "{said}"
        );
        scene.host.run(&[]);
    });
}

#[test]
fn inv6_what_the_guest_replaced_after_a_run_was_killed_leaves_nothing_behind() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        let killed = output(
            scene
                .host
                .run_command(&[])
                .env(FAULTS, "exchange:1:kill-after"),
        );
        assert!(is_killed(&killed));
        fs::write(scene.host.guests[1].join("new"), NEWER).unwrap();
        fs::rename(scene.host.guests[1].join("new"), &scene.name).unwrap();
        scene.host.run(&[]);
        scene.assert_whole(&["d/name"], &[]);
        assert_eq!(fs::read(&scene.name).unwrap(), NEWER);
    });
}

/// A guest with a link group of two names that it shares, and `deunify` killed between both: the name
/// that leads to the copy, and the one that does not yet.
fn half_deunified(place: &Path) -> (Host, PathBuf, PathBuf) {
    let host = Host::new(place, 2);
    for guest in &host.guests {
        make_file(&guest.join("d/name"), SHARED, PLAIN);
        fs::create_dir(guest.join("e")).unwrap();
        fs::hard_link(guest.join("d/name"), guest.join("e/other")).unwrap();
    }
    host.run(&[]);
    let mut deunify = host.command(["deunify", "--manually"]);
    deunify.arg(&host.guests[1]);
    let killed = output(deunify.env(FAULTS, "exchange:1:kill-after"));
    assert!(is_killed(&killed));
    let objects = check_store(&host.store());
    let names = ["d/name", "e/other"].map(|name| host.guests[1].join(name));
    let (left, done): (Vec<PathBuf>, Vec<PathBuf>) = names
        .into_iter()
        .partition(|name| objects.contains_key(&fs::metadata(name).unwrap().ino()));
    let [left]: [PathBuf; 1] = left.try_into().unwrap();
    let [done]: [PathBuf; 1] = done.try_into().unwrap();
    (host, done, left)
}

fn holds(path: &Path, bytes: &[u8]) {
    assert!(fs::read(path).unwrap() == bytes, "{}", path.display());
}

#[test]
fn inv1_what_the_guest_put_in_the_place_of_an_interrupted_copy_takes_no_other_name() {
    on_each(|filesystem| {
        let (host, done, left) = half_deunified(filesystem.path());
        fs::write(host.guests[1].join("new"), NEWER).unwrap();
        fs::rename(host.guests[1].join("new"), &done).unwrap();
        host.run(&[]);
        holds(&done, NEWER);
        holds(&left, &SHARED.bytes());
        host.run(&[]);
        host.call(["verify", "--deep"]);
    });
}

#[test]
fn inv3_what_the_guest_wrote_to_an_interrupted_copy_is_under_all_of_its_names() {
    on_each(|filesystem| {
        let (host, done, left) = half_deunified(filesystem.path());
        fs::write(&done, NEWER).unwrap();
        host.run(&[]);
        for name in [&done, &left] {
            holds(name, NEWER);
        }
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&done), inode(&left));
        let attributes: Vec<_> = xattr::list(&done).unwrap().collect();
        assert_eq!(attributes, Vec::<std::ffi::OsString>::new());
        holds(&host.guests[0].join("d/name"), &SHARED.bytes());
    });
}

/// What the guest puts in the place of a name in the instant of its exchange stays there, too, when
/// `deunify` is killed then.
#[test]
fn inv6_what_was_swapped_in_when_deunify_was_killed_is_where_the_guest_put_it() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        fs::write(&scene.other, NEWER).unwrap();
        scene.host.run(&[]);
        let mut deunify = scene.host.command(["deunify", "--manually"]);
        deunify.arg(&scene.host.guests[1]);
        let stops = "exchange:1:stop-before,exchange:1:kill-after";
        let child = spawn(deunify.env(FAULTS, stops));
        let pid = Pid::from_child(&child);
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
        scene.swap();
        kill_process(pid, Signal::CONT).unwrap();
        assert!(is_killed(&child.wait_with_output().unwrap()));
        output(&mut scene.host.run_command(&[]));
        holds(&scene.name, NEWER);
        holds(&scene.other, &SHARED.bytes());
        scene.assert_next_run(&["d/name", "e/other"], &[&scene.other]);
    });
}

/// The run takes every replacement back, and a process of the second guest still has the inode that its name led to
/// meanwhile, which is the first guest's own file.
#[test]
fn inv4_an_inode_that_another_guest_has_reached_stays_an_object() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        let reached = std::cell::RefCell::new(None);
        let said = with_moves(
            scene.host.run_command(&[]),
            "exchange:1:stop-after",
            &[&|| {
                let file = fs::File::open(&scene.name).unwrap();
                assert!(is_object(&file), "its name did not lead to the object");
                reached.replace(Some(file));
                // A new name of the old file: the replacement is undone.
                let temporary = &temporary_names(&scene.host.store())[0];
                fs::hard_link(&temporary.path, &scene.other).unwrap();
            }],
        );
        assert_eq!(said, "");
        scene.assert_whole(&["d/name", "e/other"], &[&scene.name, &scene.other]);
        let reached = reached.into_inner().unwrap();
        let inode = reached.metadata().unwrap().ino();
        let first = scene.host.guests[0].join("d/name");
        assert_eq!(inode, fs::metadata(&first).unwrap().ino());
        assert!(
            is_object(&reached),
            "inv4: a file of the first guest, which the second one holds, has lost its mark"
        );
        assert!(check_store(&scene.host.store()).contains_key(&inode));
        // Its own guest gets a copy as from any object, and the next run shares it with everybody again.
        scene.host.deunify(0, &[]);
        assert_ne!(inode, fs::metadata(&first).unwrap().ino());
        scene.host.run(&[]);
        scene.host.call(["verify", "--deep"]);
    });
}

/// `open(O_RDONLY | O_TRUNC)` truncates a file and breaks no read lease: only size and mtime tell of it.
#[test]
fn inv5_a_file_that_is_truncated_under_its_lease() {
    on_each(|filesystem| {
        for (number, options) in [&[][..], &["--ignore-mtime"]].into_iter().enumerate() {
            let scene = Scene::new(&filesystem.path().join(number.to_string()));
            let truncate = || {
                let flags = OFlags::RDONLY | OFlags::TRUNC;
                drop(rustix::fs::open(&scene.name, flags, Mode::empty()).unwrap());
            };
            let command = scene.host.run_command(options);
            with_moves(command, "exchange:1:stop-before", &[&truncate]);
            let size = |path: &Path| fs::metadata(path).unwrap().len();
            assert_eq!(
                size(&scene.name),
                0,
                "inv5: the truncation is lost {options:?}"
            );
            let other = scene.host.guests[0].join("d/name");
            assert_eq!(size(&other), SHARED.size, "inv4: {options:?}");
            check_store(&scene.host.store());
        }
    });
}
