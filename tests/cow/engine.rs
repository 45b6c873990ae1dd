//! One break on real filesystems, killed and failing at every call that counts, too.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::{Mode, OFlags};
use vhashify::broker::break_link::Breaker;
use vhashify::broker::link_group::Name;
use vhashify::broker::object::{By, open_object};
use vhashify::guest::{Guest, StoreLocation};
use vhashify_sys::fault::Point;
use vhashify_sys::lease::ignore_break_signal;

use vhashify_testkit::built::FAULTS;
use vhashify_testkit::disturb::is_killed;
use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each};
use vhashify_testkit::moments::{assert_recovered, assert_same, at_any_moment, snapshots};
use vhashify_testkit::program::{Host, output};
use vhashify_testkit::snapshot::{Snapshot, check_store};
use vhashify_testkit::tree::{Content, Metadata, PLAIN, make_file};
use vhashify_testkit::work::assert_tidy;

/// Guest, path in it, store: what the test program breaks when it runs itself.
const BREAK: &str = "VHASHIFY_TEST_BREAK";

pub fn breaker(host: &Host, guest: usize) -> Breaker {
    ignore_break_signal();
    let vdir = &host.guests[guest];
    let store = StoreLocation::open(&host.store()).unwrap();
    let guest = Guest::open(vdir.file_name().unwrap(), vdir).unwrap();
    Breaker::new(guest, Some(store.directory))
}

/// Breaks the link of `path` as the broker does.
pub fn break_path(breaker: &Breaker, path: &str) -> Result<(), String> {
    let name = Name::of(path.as_bytes());
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let root = breaker.guest().root.as_fd();
    let found = rustix::fs::openat(root, path, flags, Mode::empty()).unwrap();
    let device = breaker.guest().device;
    let Some(object) = open_object(found.as_fd(), device, By::Name).unwrap() else {
        return Err("it is no object".to_owned());
    };
    let guard = breaker.lock_inode(object.stamp().inode, std::process::id());
    breaker
        .break_link(&guard, object.as_fd(), Some(&name))
        .map(drop)
        .map_err(|failed| format!("{}: {}", failed.call, failed.errno))
}

/// Three guests alike: `group` of four names in two directories, `single`, and one with attributes.
pub fn shared_guests(place: &Path) -> Host {
    let host = Host::new(place, 3);
    for guest in &host.guests {
        make_file(
            &guest.join("d/single"),
            Content {
                size: 70_000,
                variant: 1,
            },
            PLAIN,
        );
        let odd = Metadata {
            mode: 0o640,
            owner: 1,
            group: 2,
            ..PLAIN
        };
        make_file(
            &guest.join("d/odd"),
            Content {
                size: 5_000,
                variant: 2,
            },
            odd,
        );
        let odd = guest.join("d/odd");
        xattr::set(&odd, "user.note", b"kept").unwrap();
        command(Command::new("setfacl").args(["-m", "u:7:r"]).arg(&odd));
        command(
            Command::new("touch")
                .args(["-d", "2020-02-02 02:02:02.25"])
                .arg(&odd),
        );
        make_file(
            &guest.join("d/group0"),
            Content {
                size: 9_000,
                variant: 3,
            },
            PLAIN,
        );
        fs::create_dir_all(guest.join("e")).unwrap();
        for name in ["d/group1", "e/group2", "e/group3"] {
            fs::hard_link(guest.join("d/group0"), guest.join(name)).unwrap();
        }
        for directory in ["d", "e"] {
            command(
                Command::new("touch")
                    .args(["-d", "2021-01-01"])
                    .arg(guest.join(directory)),
            );
        }
    }
    host.run(&[]);
    let shared = |name: &str| ino(&host, 0, name) == ino(&host, 1, name);
    assert!(
        ["d/single", "d/odd", "d/group0", "e/group3"]
            .into_iter()
            .all(shared)
    );
    host
}

pub fn ino(host: &Host, guest: usize, name: &str) -> u64 {
    fs::metadata(host.guests[guest].join(name)).unwrap().ino()
}

pub fn place_in(filesystem: &Filesystem) -> PathBuf {
    vhashify_testkit::disturb::place_in(filesystem)
}

/// Breaks in a process of its own, with these faults.
pub fn break_with(host: &Host, path: &str, faults: &str) -> Output {
    output(break_command(host, path).env(FAULTS, faults))
}

/// Breaks in a process of its own.
pub fn break_command(host: &Host, path: &str) -> Command {
    let told = format!("{}\n{path}\n", host.place.display());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args([
            "--exact",
            "cow::engine::a_break_as_told",
            "--ignored",
            "--nocapture",
        ])
        .env(BREAK, told);
    child
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn a_break_as_told() {
    let told = std::env::var(BREAK).unwrap();
    let mut lines = told.lines();
    let host = Host {
        place: lines.next().unwrap().into(),
        guests: Vec::new(),
        protect: "none",
    };
    let guests = vec![host.place.join("guest0")];
    let host = Host { guests, ..host };
    break_path(&breaker(&host, 0), lines.next().unwrap()).unwrap();
}

#[test]
fn inv1_inv2_inv3_a_broken_link_is_the_same_file_and_nobody_elses() {
    on_each(|filesystem| {
        let host = shared_guests(&place_in(filesystem));
        let before = snapshots(&host);
        let breaker = breaker(&host, 0);
        for name in ["d/single", "d/odd", "e/group2"] {
            break_path(&breaker, name).unwrap();
            // Directories keep their times, too.
            assert_same(&before, &host, name);
            assert_ne!(ino(&host, 0, name), ino(&host, 1, name));
        }
        assert_eq!(
            fs::metadata(host.guests[0].join("d/group1"))
                .unwrap()
                .nlink(),
            4
        );
        assert_eq!(
            break_path(&breaker, "d/group0"),
            Err("it is no object".to_owned())
        );
        let write = |name: &str| fs::write(host.guests[0].join(name), "written").unwrap();
        ["d/single", "d/odd", "d/group1"]
            .into_iter()
            .for_each(write);
        for (number, before) in before.iter().enumerate().skip(1) {
            before.assert_same(&Snapshot::of(&host.guests[number]), "another guest");
        }
        check_store(&host.store());
    });
}

#[test]
fn inv2_a_directory_keeps_the_time_that_the_guest_gave_it_between_two_breaks() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = shared_guests(&place_in(&filesystem));
    let breaker = breaker(&host, 0);
    let at = |name: &str| host.guests[0].join(name);
    let time = || fs::metadata(at("d")).unwrap().modified().unwrap();
    let old = time();
    break_path(&breaker, "d/single").unwrap();
    assert_eq!(time(), old);
    // One name comes from elsewhere: of this move the directory sees a half.
    fs::write(at("new"), "").unwrap();
    fs::rename(at("new"), at("d/new")).unwrap();
    let new = time();
    assert_ne!(new, old);
    break_path(&breaker, "d/odd").unwrap();
    assert_eq!(time(), new);
    // Another directory between two breaks in this one, and a new directory of the same name.
    break_path(&breaker, "e/group2").unwrap();
    assert_eq!(time(), new);
    fs::rename(at("d"), at("gone")).unwrap();
    fs::rename(at("e"), at("d")).unwrap();
    let there = time();
    host.run(&[]);
    break_path(&breaker, "d/group2").unwrap();
    assert_eq!(time(), there);
}

#[test]
fn inv3_names_that_a_guest_moved_or_removed_since_the_walk_are_found() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = shared_guests(&place_in(&filesystem));
    let breaker = breaker(&host, 0);
    break_path(&breaker, "d/single").unwrap();
    let at = |name: &str| host.guests[0].join(name);
    fs::create_dir(at("f")).unwrap();
    fs::rename(at("d/group0"), at("f/moved")).unwrap();
    fs::rename(at("e"), at("g")).unwrap();
    fs::remove_file(at("g/group3")).unwrap();
    let before = snapshots(&host);
    break_path(&breaker, "d/group1").unwrap();
    assert_same(&before, &host, "after the break");
    assert_eq!(fs::metadata(at("f/moved")).unwrap().nlink(), 3);
}

#[test]
fn inv3_a_run_since_the_walk_is_noticed() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = shared_guests(&place_in(&filesystem));
    let breaker = breaker(&host, 0);
    break_path(&breaker, "d/single").unwrap();
    // The guest removes its name of an object and makes a group of two out of the same bytes.
    let at = |name: &str| host.guests[0].join(name);
    let bytes = fs::read(at("d/odd")).unwrap();
    let object = ino(&host, 1, "d/odd");
    command(
        Command::new("cp")
            .arg("-a")
            .args([at("d/odd"), at("d/new")]),
    );
    fs::rename(at("d/new"), at("d/odd")).unwrap();
    fs::hard_link(at("d/odd"), at("e/second")).unwrap();
    host.run(&[]);
    assert_eq!(ino(&host, 0, "e/second"), object);
    let before = snapshots(&host);
    break_path(&breaker, "d/odd").unwrap();
    assert_same(&before, &host, "after the break");
    assert_eq!(fs::read(at("e/second")).unwrap(), bytes);
    assert_eq!(fs::metadata(at("e/second")).unwrap().nlink(), 2);
}

#[test]
fn inv6_killed_before_and_after_every_call_of_a_break() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let mut met = 0;
    for (number, point) in Point::ALL.iter().enumerate() {
        for hit in 1..=5 {
            let mut is_met = false;
            for action in ["kill-before", "kill-after"] {
                // By the next run, or by the next break.
                {
                    let is_by_run = (action == "kill-before") == (hit % 2 == 0);
                    let host = shared_guests(&place_in(&filesystem));
                    let before = snapshots(&host);
                    let fault = format!("{}:{hit}:{action}", point.name());
                    let killed = break_with(&host, "d/group1", &fault);
                    if !is_killed(&killed) {
                        assert!(killed.status.success(), "{fault}: {killed:?}");
                        continue;
                    }
                    is_met = true;
                    for (before, now) in before.iter().zip(snapshots(&host)) {
                        at_any_moment(before).assert_same(&at_any_moment(&now), &fault);
                    }
                    if is_by_run {
                        host.run(&[]);
                    } else {
                        // Of whichever name is still shared, if one is.
                        let broken = break_path(&breaker(&host, 0), "e/group3");
                        if broken.is_err() {
                            host.run(&[]);
                        }
                    }
                    assert_recovered(&before, &host, &fault);
                    check_store(&host.store());
                }
            }
            met += usize::from(is_met);
            if !is_met {
                break;
            }
        }
        assert!(number < Point::ALL.len());
    }
    // Create, content, metadata, bytes, lease, four links, four exchanges, four unlinks at least.
    assert!(met >= 15, "{met}");
}

#[test]
fn inv1_to_inv6_a_break_that_fails_leaves_everything_as_it_was() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for point in [
        Point::CopyCreate,
        Point::CopyContent,
        Point::CopyMetadata,
        Point::CopySync,
        Point::TemporaryLink,
        Point::Exchange,
    ] {
        for hit in [1, 3] {
            for errno in ["ENOSPC", "EDQUOT", "EIO"] {
                let host = shared_guests(&place_in(&filesystem));
                let before = snapshots(&host);
                let fault = format!("{}:{hit}:{errno}", point.name());
                let done = break_with(&host, "d/group0", &fault);
                if !done.status.success() {
                    let said = String::from_utf8_lossy(&done.stderr).into_owned();
                    let said = said + &String::from_utf8_lossy(&done.stdout);
                    let told = match errno {
                        "ENOSPC" => "os error 28",
                        "EDQUOT" => "os error 122",
                        _ => "os error 5",
                    };
                    assert!(said.contains(told), "{fault}: {said}");
                }
                assert_same(&before, &host, &fault);
                if done.status.success() {
                    assert_ne!(
                        ino(&host, 0, "d/group0"),
                        ino(&host, 1, "d/group0"),
                        "{fault}"
                    );
                } else {
                    assert_eq!(
                        ino(&host, 0, "e/group3"),
                        ino(&host, 1, "e/group3"),
                        "{fault}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_full_disk_is_the_callers_to_know() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = shared_guests(&place_in(&filesystem));
    let before = snapshots(&host);
    let filler = host.place.join("filler");
    drop(
        Command::new("dd")
            .args(["if=/dev/zero", "bs=64k", "status=none"])
            .arg(format!("of={}", filler.display()))
            .output(),
    );
    drop(
        Command::new("sh")
            .arg("-c")
            .arg(format!("cat /dev/zero >> {}", filler.display()))
            .output(),
    );
    let said = break_path(&breaker(&host, 0), "d/single").unwrap_err();
    assert!(said.contains("os error 28"), "{said}");
    assert_same(&before, &host, "on the full disk");
    fs::remove_file(filler).unwrap();
    break_path(&breaker(&host, 0), "d/single").unwrap();
}

/// A directory that takes names and gives none back (`chattr +a`), or neither: the call fails, and no temporary name
/// stays.
#[test]
fn inv6_a_break_in_a_directory_that_gives_no_name_back_leaves_nothing_behind() {
    on_each(|filesystem| {
        let host = shared_guests(filesystem.path());
        let breaker = breaker(&host, 0);
        let before = snapshots(&host);
        let group = host.guests[0].join("d/group");
        assert!(
            fs::metadata(group.with_file_name("single"))
                .unwrap()
                .nlink()
                > 1
        );
        for flag in ["a", "i"] {
            let directory = host.guests[0].join("d");
            let change = |sign: &str| {
                let flag = format!("{sign}{flag}");
                command(Command::new("chattr").arg(flag).arg(&directory));
            };
            change("+");
            let broken = ["d/single", "d/odd"].map(|path| break_path(&breaker, path));
            let left = vhashify_testkit::snapshot::paths(&directory);
            change("-");
            for broken in broken {
                let said = broken.unwrap_err();
                assert!(said.contains("not permitted"), "+{flag}: {said}");
            }
            let left: Vec<_> = left
                .into_iter()
                .filter(|path| vhashify_testkit::moments::is_reserved(path))
                .collect();
            assert_eq!(left, [""; 0].map(PathBuf::from), "+{flag}");
            assert_tidy(&host.store(), &format!("+{flag}"));
        }
        assert_same(&before, &host, "after breaks that were refused");
        break_path(&breaker, "d/single").unwrap();
    });
}
