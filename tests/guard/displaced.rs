//! Files whose names a run has just exchanged under the guard: whoever still comes for one is told so, and one that goes back
//! is its guest's as before.

use std::fs::{self, OpenOptions};
use std::io::{Error, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use vhashify_testkit::built::FAULTS;
use vhashify_testkit::disturb::{is_killed, with_moves};
use vhashify_testkit::filesystem::{Filesystem, Kind, on_each};
use vhashify_testkit::program::{Host, output};
use vhashify_testkit::snapshot::{check_store, paths};
use vhashify_testkit::tree::{Content, PLAIN, make_file};
use vhashify_testkit::work::{assert_tidy, temporary_names};

use super::Guard;

const SHARED: Content = Content {
    size: 5000,
    variant: 0,
};

/// Two guests with an equal file, and the path of the one whose name a run replaces.
fn equal(place: &Path) -> (Host, PathBuf) {
    let host = Host::new(place, 2).protected_by("lsm");
    for guest in &host.guests {
        make_file(&guest.join("d/name"), SHARED, PLAIN);
    }
    let replaced = host.guests[1].join("d/name");
    (host, replaced)
}

fn append(path: &Path) -> Result<(), Error> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(b"appended")
}

fn number(result: Result<(), Error>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn inv5_whoever_comes_for_a_displaced_file_by_a_descriptor_is_told_so() {
    on_each(|filesystem| {
        let (host, path) = equal(filesystem.path());
        let _loaded = Guard;
        let held = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        let through = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
        let before = fs::metadata(&path).unwrap().permissions();
        let come = || {
            assert_eq!(number(append(&through)), Some(libc::ESTALE));
            let mode = fs::Permissions::from_mode(0o600);
            assert_eq!(
                number(fs::set_permissions(&through, mode)),
                Some(libc::ESTALE)
            );
            let other = path.with_extension("other");
            assert_eq!(
                number(fs::hard_link(
                    &temporary_names(&host.store())[0].path,
                    other
                )),
                Some(libc::ESTALE)
            );
            // By its name it is the object.
            assert_eq!(number(append(&path)), Some(libc::EPERM));
        };
        let said = with_moves(host.run_command(&[]), "turn-back:1:stop-after", &[&come]);
        assert_eq!(said, "");
        assert_eq!(fs::read(&path).unwrap(), SHARED.bytes());
        assert_eq!(fs::metadata(&path).unwrap().permissions(), before);
        assert_eq!(check_store(&host.store()).len(), 1);
        assert_tidy(&host.store(), "a run is over");
    });
}

#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn inv5_a_file_that_was_displaced_and_goes_back_can_be_changed_again() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let (host, path) = equal(filesystem.path());
    let _loaded = Guard;
    let other = path.with_extension("other");
    // A name that a call under way makes of the old file: the run takes the replacement back.
    let link = || {
        fs::hard_link(&temporary_names(&host.store())[0].path, &other).unwrap();
    };
    with_moves(host.run_command(&[]), "turn-back:1:stop-before", &[&link]);
    append(&path).unwrap();
    let appended = [&SHARED.bytes(), b"appended".as_slice()].concat();
    assert_eq!(fs::read(&path).unwrap(), appended);
    assert_eq!(fs::read(&other).unwrap(), appended, "inv3");
    assert_eq!(
        fs::read(host.guests[0].join("d/name")).unwrap(),
        SHARED.bytes()
    );
}

#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn inv6_what_a_run_left_that_was_killed_when_a_file_was_displaced() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for action in ["kill-before", "kill-after"] {
        let (host, path) = equal(&filesystem.path().join(action));
        let _loaded = Guard;
        let faults = format!("turn-back:1:{action}");
        let killed = output(host.run_command(&[]).env(FAULTS, &faults));
        assert!(is_killed(&killed), "{killed:?}");
        assert_eq!(fs::read(&path).unwrap(), SHARED.bytes());
        if action == "kill-before" {
            host.run(&[]);
            assert_eq!(fs::read(&path).unwrap(), SHARED.bytes());
            assert_tidy(&host.store(), &faults);
            continue;
        }
        // Nobody has the content any more: the displaced file is the last of it, and gets a name of its own.
        for guest in &host.guests {
            fs::remove_file(guest.join("d/name")).unwrap();
        }
        for object in check_store(&host.store()).into_values() {
            fs::remove_file(object).unwrap();
        }
        let recovered = output(&mut host.run_command(&[]));
        let said = String::from_utf8_lossy(&recovered.stderr);
        assert!(said.contains("misplaced"), "{said}");
        let is_it = |path: &PathBuf| path.to_string_lossy().contains("misplaced");
        let kept = paths(&host.guests[1]).into_iter().find(is_it).unwrap();
        assert_eq!(fs::read(&kept).unwrap(), SHARED.bytes());
        append(&kept).expect("it is its guest's own file again");
    }
}
