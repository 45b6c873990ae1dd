//! Where the broker listens, and where it must not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Output;

use rustix::process::Signal;
use tempfile::TempDir;

use super::place::{Broker, vserver};

/// A directory with a store. Nothing is shared here.
fn place() -> TempDir {
    let place = TempDir::with_prefix("vhashify-").unwrap();
    fs::create_dir(place.path().join("hash")).unwrap();
    place
}

fn start(place: &Path) -> Broker {
    Broker::start(place, &["--destination".as_ref(), &place.join("hash")])
}

/// Runs one that must refuse.
fn refused(place: &Path, arguments: &[&str], status: i32) -> String {
    let mut broker = vserver();
    broker.arg("broker").args(arguments).current_dir(place);
    let Output {
        status: ended,
        stderr,
        stdout,
    } = broker.output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(ended.code(), Some(status), "{arguments:?}: {said}");
    assert_eq!(
        (said.lines().count(), stdout.len()),
        (1, 0),
        "{arguments:?}: {said}"
    );
    said
}

#[test]
fn a_socket_is_roots_alone_and_gone_afterwards() {
    let place = place();
    for signal in [Signal::TERM, Signal::INT] {
        let mut broker = start(place.path());
        let found = fs::symlink_metadata(&broker.oci).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o600, 0));
        assert_eq!(broker.end(signal), Some(0), "{}", broker.said());
        let left = fs::read_dir(place.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["hash", "said", "told"]);
    }
}

#[test]
fn a_socket_that_somebody_listens_on_is_left_to_him() {
    let place = place();
    let mut broker = start(place.path());
    let arguments = ["--socket", "oci", "--destination", "hash"];
    let said = refused(place.path(), &arguments, 1);
    assert!(said.contains("somebody listens on"), "{said}");
    drop(UnixStream::connect(&broker.oci).unwrap());
    // Not even when it ends is a name removed that is another's by then.
    fs::remove_file(&broker.oci).unwrap();
    let other = UnixListener::bind(&broker.oci).unwrap();
    broker.end(Signal::TERM);
    drop(UnixStream::connect(&broker.oci).unwrap());
    drop(other);
}

#[test]
fn what_a_killed_broker_left_is_replaced_and_nothing_else() {
    let place = place();
    let mut broker = start(place.path());
    broker.end(Signal::KILL);
    assert!(broker.oci.exists());
    let broker = start(place.path());
    drop(UnixStream::connect(&broker.oci).unwrap());
    drop(broker);
    for name in ["file", "directory", "link"] {
        let path = place.path().join(name);
        match name {
            "file" => fs::write(&path, "precious").unwrap(),
            "directory" => fs::create_dir(&path).unwrap(),
            _ => std::os::unix::fs::symlink("oci", &path).unwrap(),
        }
        let said = refused(
            place.path(),
            &["--socket", name, "--destination", "hash"],
            1,
        );
        assert!(said.contains("is no socket"), "{said}");
    }
    assert_eq!(fs::read(place.path().join("file")).unwrap(), b"precious");
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    let place = place();
    let config = place.path().join("conf");
    fs::create_dir(&config).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o755)).unwrap();
    let long = format!("/{}", "x".repeat(120));
    for (arguments, status, words) in [
        (&["--socket", "oci", "--destination", "none"][..], 2, "none"),
        (
            &["--socket", "oci", "--config-dir", "conf"],
            2,
            "--destination",
        ),
        (
            &["--socket", "none/oci", "--destination", "hash"],
            1,
            "open on none",
        ),
        (&["--socket", &long, "--destination", "hash"], 1, "too long"),
        (
            &[
                "--socket",
                "oci",
                "--destination",
                "hash",
                "--lxc-socket",
                "hash",
            ],
            1,
            "is no socket",
        ),
        (&["--socket", "oci", "--lxc-hook"], 1, "not called by LXC"),
        (
            &[
                "--socket",
                "oci",
                "--destination",
                "hash",
                "--destination",
                "hash",
            ],
            2,
            "one filesystem",
        ),
    ] {
        let said = refused(place.path(), arguments, status);
        assert!(said.contains(words), "{said}");
    }
    for arguments in [
        &[][..],
        &["--print-profile"],
        &["--socket", "oci", "--print-profile=docker"],
        &["--socket", "oci", "words"],
        &["web"],
    ] {
        let done = vserver().arg("broker").args(arguments).output().unwrap();
        assert_ne!(done.status.code(), Some(0), "{arguments:?}");
    }
}
