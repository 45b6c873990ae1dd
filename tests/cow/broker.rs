//! The broker and a thread that is under its filter, in the root directory of a guest: what a container
//! adds is left out, so that this runs in the machines of `tests/vm`, too, where the guard is.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`in_guest`] | the thread, its filter and its broker |
//! | [`race`] | a program that outruns the broker |
//! | [`cost`] | what all this costs |
#![allow(unsafe_code)] // A thread whose table of files is its own.

mod cost;
mod in_guest;
mod race;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::AtomicU64;

use rustix::fs::{FlockOperation, Timespec, Timestamps, flock, futimens};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use vserver::context::notify;

use vhashify_testkit::filesystem::Kind;
use vhashify_testkit::program::{Host, is_guarded};
use vhashify_testkit::tree::{Content, PLAIN, make_file};

use super::engine::{ino, place_in, shared_guests};
use super::quota;
use in_guest::{alone, in_guest, in_guest_under, others};
use race::race;

fn writable(path: impl AsRef<Path>) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// `name` and `e/0` to `e/COUNT` without the last are the names of one file, and there are no others.
fn assert_is_one_file(name: &str, count: u64) {
    let file = fs::metadata(name).unwrap();
    assert_eq!(file.nlink(), count + 1);
    for number in 0..count {
        let other = fs::metadata(format!("e/{number}")).unwrap();
        assert_eq!(other.ino(), file.ino());
    }
}

#[test]
fn a_file_is_written_as_if_it_were_the_guests_alone() {
    alone(
        "a_file_is_written_as_if_it_were_the_guests_alone",
        &Kind::ALL,
        |filesystem| {
            let host = shared_guests(&place_in(filesystem));
            others(&host, || {
                in_guest(&host, || {
                    let mut file = writable("d/single");
                    file.seek(SeekFrom::Start(9)).unwrap();
                    file.write_all(b"written").unwrap();
                    let mut group = writable("/e/../d/./group1");
                    group.set_len(3).unwrap();
                    for name in ["d/group0", "d/group1", "e/group2", "e/group3"] {
                        assert_eq!(fs::metadata(name).unwrap().len(), 3);
                        assert_eq!(fs::metadata(name).unwrap().nlink(), 4);
                    }
                    group.write_all(b"ab").unwrap();
                    let mut odd = String::new();
                    let odd_mode = fs::metadata("d/odd").unwrap().mode();
                    File::create("d/odd").unwrap().write_all(b"new").unwrap();
                    File::open("d/odd")
                        .unwrap()
                        .read_to_string(&mut odd)
                        .unwrap();
                    assert_eq!(
                        (odd.as_str(), fs::metadata("d/odd").unwrap().mode()),
                        ("new", odd_mode)
                    );
                });
                assert_ne!(ino(&host, 0, "d/single"), ino(&host, 1, "d/single"));
                let single = fs::read(host.guests[0].join("d/single")).unwrap();
                assert_eq!(&single[9..16], b"written");
            });
        },
    );
}

#[test]
fn a_new_name_of_a_shared_file_costs_no_copy_and_inv3_stays_one_of_the_same_file() {
    alone(
        "a_new_name_of_a_shared_file_costs_no_copy_and_inv3_stays_one_of_the_same_file",
        &Kind::ALL,
        |filesystem| {
            let host = shared_guests(&place_in(filesystem));
            let (single, odd) = (ino(&host, 1, "d/single"), ino(&host, 1, "d/odd"));
            others(&host, || {
                in_guest(&host, || {
                    // From here on it is known that the others have one name each.
                    writable("d/group0").set_len(1).unwrap();

                    let inode = |name| fs::metadata(name).unwrap().ino();
                    // What a package manager does.
                    fs::hard_link("d/odd", "d/odd.backup").unwrap();
                    fs::write("d/odd.new", "new").unwrap();
                    fs::rename("d/odd.new", "d/odd").unwrap();
                    assert_eq!(inode("d/odd.backup"), odd);
                    fs::remove_file("d/odd.backup").unwrap();

                    fs::hard_link("d/single", "e/second").unwrap();
                    fs::hard_link("e/second", "third").unwrap();
                    fs::rename("third", "d/moved").unwrap();
                    assert_eq!(inode("d/moved"), single);
                    writable("e/second").write_all(b"written").unwrap();
                    for name in ["d/single", "e/second", "d/moved"] {
                        assert_eq!(&fs::read(name).unwrap()[..7], b"written", "{name}");
                        assert_eq!(fs::metadata(name).unwrap().nlink(), 3, "{name}");
                    }
                });
            });
        },
    );
}

#[test]
fn inv4_a_guest_does_not_use_up_the_links_that_a_shared_file_can_have() {
    alone(
        "inv4_a_guest_does_not_use_up_the_links_that_a_shared_file_can_have",
        &[Kind::Ext4],
        |filesystem| {
            let host = shared_guests(&place_in(filesystem));
            let object = ino(&host, 1, "d/single");
            others(&host, || {
                in_guest(&host, || {
                    for number in 0..1_200 {
                        fs::hard_link("d/single", format!("e/{number}")).unwrap();
                    }
                    assert_is_one_file("d/single", 1_200);
                });
            });
            let left = fs::metadata(host.guests[1].join("d/single")).unwrap();
            assert_eq!((left.ino(), left.nlink()), (object, 3));
        },
    );
}

#[test]
fn inv3_a_name_that_is_made_while_another_thread_writes_is_one_of_the_same_file() {
    alone(
        "inv3_a_name_that_is_made_while_another_thread_writes_is_one_of_the_same_file",
        &[Kind::Ext4],
        |filesystem| {
            const FILES: u64 = 400;
            let host = Host::new(&place_in(filesystem), 2);
            for guest in &host.guests {
                for number in 0..FILES {
                    let content = Content {
                        size: 5_000 + number,
                        variant: 1,
                    };
                    make_file(&guest.join(format!("d/{number}")), content, PLAIN);
                }
            }
            host.run(&[]);
            others(&host, || {
                in_guest(&host, || {
                    for number in 0..FILES {
                        let (name, second) = (format!("d/{number}"), format!("{number}"));
                        let together = Barrier::new(2);
                        std::thread::scope(|scope| {
                            scope.spawn(|| {
                                together.wait();
                                fs::hard_link(&name, &second).unwrap();
                            });
                            together.wait();
                            writable(&name).write_all(b"written").unwrap();
                        });
                        assert_eq!(
                            fs::metadata(&name).unwrap().ino(),
                            fs::metadata(&second).unwrap().ino(),
                            "{name}"
                        );
                    }
                });
            });
        },
    );
}

#[test]
fn inv3_a_file_that_is_linked_again_and_again_can_be_written_meanwhile() {
    alone(
        "inv3_a_file_that_is_linked_again_and_again_can_be_written_meanwhile",
        &[Kind::Ext4],
        |filesystem| {
            const NAMES: u64 = 200;
            let host = shared_guests(&place_in(filesystem));
            others(&host, || {
                in_guest(&host, || {
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            for number in 0..NAMES {
                                fs::hard_link("d/single", format!("e/{number}")).unwrap();
                            }
                        });
                        // More than the broker has threads, so that none is left for the next link.
                        for _ in 0..6 {
                            scope.spawn(|| writable("d/single").write_all(b"written").unwrap());
                        }
                    });
                    assert_is_one_file("d/single", NAMES);
                });
            });
        },
    );
}

#[test]
fn a_path_is_one_below_the_callers_own_root() {
    alone(
        "a_path_is_one_below_the_callers_own_root",
        &[Kind::Ext4],
        |filesystem| {
            let host = shared_guests(&place_in(filesystem));
            others(&host, || {
                in_guest(&host, || {
                    // What is known of the thread's root from here on is not so after.
                    writable("/d/single").write_all(b"written").unwrap();
                    rustix::process::chroot("d").unwrap();
                    writable("/odd").write_all(b"written").unwrap();
                    rustix::process::chdir("/").unwrap();
                    writable("group0").write_all(b"written").unwrap();
                });
            });
            for name in ["d/single", "d/odd", "d/group1", "e/group3"] {
                let found = fs::read(host.guests[0].join(name)).unwrap();
                assert_eq!(&found[..7], b"written", "{name}");
            }
        },
    );
}

#[test]
fn a_descriptor_for_reading_leads_to_the_copy_after_a_change_through_it() {
    alone(
        "a_descriptor_for_reading_leads_to_the_copy_after_a_change_through_it",
        &[Kind::Ext4],
        |filesystem| {
            let host = shared_guests(&place_in(filesystem));
            others(&host, || {
                in_guest(&host, || {
                    let mut file = File::open("d/single").unwrap();
                    let mut other = File::open("d/single").unwrap();
                    let mut same = file.try_clone().unwrap();
                    let mut ten = [0; 10];
                    file.read_exact(&mut ten).unwrap();
                    let before = file.metadata().unwrap().ino();
                    let time = Timespec {
                        tv_sec: 5,
                        tv_nsec: 0,
                    };
                    let times = Timestamps {
                        last_access: time,
                        last_modification: time,
                    };
                    futimens(&file, &times).unwrap();
                    assert_ne!(file.metadata().unwrap().ino(), before);
                    assert_eq!(file.metadata().unwrap().mtime(), 5);
                    // The position is one for both descriptors of the open file, as before.
                    assert_eq!(same.stream_position().unwrap(), 10);
                    file.read_exact(&mut ten).unwrap();
                    assert_eq!(same.stream_position().unwrap(), 20);
                    // One that was opened by itself comes to the same copy when it is used.
                    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
                    assert_eq!(
                        other.metadata().unwrap().ino(),
                        file.metadata().unwrap().ino()
                    );
                    other.seek(SeekFrom::Start(0)).unwrap();
                    // The guest removes a file and holds it: its change is nobody else's, and has no name.
                    let held = File::open("d/odd").unwrap();
                    fs::remove_file("d/odd").unwrap();
                    held.set_permissions(PermissionsExt::from_mode(0o600))
                        .unwrap();
                    assert_eq!(held.metadata().unwrap().mode() & 0o777, 0o600);
                    assert!(!Path::new("d/odd").exists());
                    // The name is a new file's by now: the old descriptor is not led there.
                    let group = File::open("e/group2").unwrap();
                    flock(&group, FlockOperation::LockShared).unwrap();
                });
            });
        },
    );
}

#[test]
fn the_profile_for_any_oci_runtime_is_good_for_youki() {
    // Its `libcontainer` reads conditions in another order than runc and crun: see tests/containers.
    alone(
        "the_profile_for_any_oci_runtime_is_good_for_youki",
        &[Kind::Ext4],
        |filesystem| {
            let host = shared_guests(&place_in(filesystem));
            others(&host, || {
                in_guest_under(&host, notify::oci_profile("/none"), || {
                    writable("d/single").write_all(b"written").unwrap();
                    let group = File::options().append(true).open("e/group2");
                    group.unwrap().write_all(b"more").unwrap();
                    let odd = File::open("d/odd").unwrap();
                    flock(&odd, FlockOperation::NonBlockingLockExclusive).unwrap();
                    File::create_new("d/new")
                        .unwrap()
                        .write_all(b"new")
                        .unwrap();
                });
                for name in ["d/single", "d/group0", "d/odd"] {
                    assert_ne!(ino(&host, 0, name), ino(&host, 1, name), "{name}");
                }
            });
        },
    );
}

#[test]
fn inv4_a_broker_without_descriptors_lets_nobody_write_to_a_shared_file() {
    alone(
        "inv4_a_broker_without_descriptors_lets_nobody_write_to_a_shared_file",
        &[Kind::Ext4],
        |filesystem| {
            let host = shared_guests(&place_in(filesystem));
            others(&host, || {
                in_guest(&host, || {
                    // The broker's table is full from here on, and the guest's is not.
                    let taken: Vec<File> = (0..50).map(|_| File::open("/").unwrap()).collect();
                    // SAFETY: the files of this thread alone part from the others'.
                    unsafe { unshare_unsafe(UnshareFlags::FILES) }.unwrap();
                    let last = taken.iter().map(AsRawFd::as_raw_fd).max().unwrap();
                    let before = getrlimit(Resource::Nofile);
                    let limit = |current| {
                        let limit = Rlimit { current, ..before };
                        setrlimit(Resource::Nofile, limit).unwrap();
                    };
                    limit(Some(u64::try_from(last).unwrap() + 1));
                    drop(taken);
                    let read_only = File::open("d/group0").unwrap();
                    let refused = |done: std::io::Result<()>| {
                        assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::ENFILE));
                    };
                    let append = |path| OpenOptions::new().append(true).open(path).map(drop);
                    refused(append("/d/single"));
                    refused(append("d/single"));
                    let mode = fs::Permissions::from_mode(0o600);
                    refused(read_only.set_permissions(mode));
                    limit(before.current);
                    append("d/single").unwrap();
                });
            });
        },
    );
}

#[test]
#[ignore = "with quotas, which not every kernel has: run by tests/vm"]
fn a_quota_that_is_exceeded_is_the_callers_to_know() {
    alone(
        "a_quota_that_is_exceeded_is_the_callers_to_know",
        &[Kind::Ext4],
        |filesystem| {
            let host = shared_guests(&place_in(filesystem));
            let owner = fs::metadata(host.guests[0].join("d/odd")).unwrap().uid();
            let object = ino(&host, 1, "d/odd");
            quota::enforce(&host.place);
            // It has 8 of them, for all guests.
            quota::limit(&host.place, owner, 12);
            others(&host, || {
                let refused = in_guest(&host, || {
                    let open = || OpenOptions::new().append(true).open("d/odd");
                    let refused = open().map(drop).unwrap_err();
                    quota::limit(Path::new("/"), owner, 0);
                    open().unwrap().write_all(b"written").unwrap();
                    refused
                });
                assert_eq!(refused.raw_os_error(), Some(libc::EDQUOT));
            });
            assert_ne!(ino(&host, 0, "d/odd"), object);
        },
    );
}

#[test]
#[ignore = "with the guard: run by tests/vm"]
fn a_program_that_outruns_the_broker_meets_the_guard() {
    assert!(is_guarded());
    alone(
        "a_program_that_outruns_the_broker_meets_the_guard",
        &[Kind::Ext4],
        |filesystem| {
            let host = shared_guests(&place_in(filesystem));
            fs::write(host.guests[0].join("own"), "own").unwrap();
            let (refused, written) = (AtomicU64::new(0), AtomicU64::new(0));
            others(&host, || {
                in_guest(&host, || race(&refused, &written));
            });
            let (refused, written) = (refused.into_inner(), written.into_inner());
            assert!(written > 0, "{refused} refused");
            #[allow(clippy::print_stderr)]
            {
                eprintln!("{refused} refused, {written} written");
            }
        },
    );
}
