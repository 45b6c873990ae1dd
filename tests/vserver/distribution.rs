//! Packages and services of a guest, by its own programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::command;

use super::host::{Host, sha256};

/// A package of one file, and a source of it that needs no network, in a guest.
fn offer_package(host: &Host, vdir: &Path) {
    let tree = host.at("package");
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    fs::create_dir_all(tree.join("usr/share/own")).unwrap();
    fs::write(tree.join("usr/share/own/file"), "of the package\n").unwrap();
    let control = "Package: own\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@b.c>\n\
                   Description: one file\n";
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let place = vdir.join("srv/packages");
    fs::create_dir_all(&place).unwrap();
    let package = place.join("own.deb");
    command(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-b"])
            .args([&tree, &package]),
    );
    let bytes = fs::read(&package).unwrap();
    let index = format!(
        "{control}Filename: ./own.deb\nSize: {}\nSHA256: {}\n",
        bytes.len(),
        sha256(&bytes)
    );
    fs::write(place.join("Packages"), index).unwrap();
    // What apt and dpkg append to is no file of another guest here.
    for log in ["var/log/apt", "var/cache/apt"] {
        fs::remove_dir_all(vdir.join(log)).unwrap();
    }
    for entry in fs::read_dir(vdir.join("var/log")).unwrap().flatten() {
        drop(fs::remove_file(entry.path()));
    }
    let sources = vdir.join("etc/apt/sources.list");
    drop(fs::remove_file(&sources));
    fs::write(sources, "deb [trusted=yes] file:/srv/packages ./\n").unwrap();
}

#[test]
fn packages_are_installed_by_the_guests_own_manager() {
    let host = Host::new();
    host.sleeper("web");
    offer_package(&host, &host.vdir("web"));
    let line = host.refused(&["web", "pkg", "install", "own"], 1);
    assert!(line.contains("not running"), "{line}");
    host.ok(&["web", "start"]);
    host.ok(&["web", "pkg", "update"]);
    host.ok(&["web", "pkg", "install", "own"]);
    let file = host.vdir("web").join("usr/share/own/file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "of the package\n");
    assert!(
        host.ok(&["web", "pkg", "list"])
            .lines()
            .any(|line| line.starts_with("own\t"))
    );
    host.ok(&["web", "pkg", "remove", "own"]);
    assert!(!file.exists());
    let output = host.run(&["web", "pkg", "install", "no-such-package"]);
    assert_eq!(output.status.code(), Some(100), "apt's own status");
    let line = host.refused(&["web", "pkg", "install", "--", "-oDebug=1"], 1);
    assert!(line.contains("not the name of a package"), "{line}");
    for arguments in [&["pkg"][..], &["pkg", "install"], &["pkg", "explode"]] {
        let mut all = vec!["web"];
        all.extend(arguments);
        assert_eq!(host.run(&all).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn services_are_started_with_the_guest_or_not() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let script = host.vdir("web").join("etc/init.d/own");
    let header = "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: own\n# Required-Start:\n\
                  # Required-Stop:\n# Default-Start: 2 3 4 5\n# Default-Stop: 0 1 6\n### END INIT INFO\n";
    fs::write(&script, header).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let query = || host.run(&["web", "chkconfig", "own"]).status.code();
    assert_eq!(query(), Some(1));
    assert_eq!(host.ok(&["web", "chkconfig", "own", "on"]), "");
    assert_eq!(query(), Some(0));
    let shown = host.ok(&["web", "chkconfig", "--list"]);
    assert!(shown.contains("own") && shown.contains("3:on"), "{shown}");
    let shown = host.ok(&["web", "chkconfig", "--list", "own"]);
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert_eq!(host.ok(&["web", "chkconfig", "own", "off"]), "");
    assert_eq!(query(), Some(1));
    for name in ["../x", "-x", ""] {
        let line = host.refused(&["web", "chkconfig", "--", name, "on"], 1);
        assert!(line.contains("not the name of a service"), "{line}");
    }
    for arguments in [&["chkconfig"][..], &["chkconfig", "own", "maybe"]] {
        let mut all = vec!["web"];
        all.extend(arguments);
        assert_eq!(host.run(&all).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_guest_without_a_manager_says_which_are_known() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    for program in ["usr/bin/apt-get", "usr/sbin/update-rc.d"] {
        fs::remove_file(host.vdir("web").join(program)).unwrap();
    }
    let line = host.refused(&["web", "pkg", "list"], 1);
    assert!(
        line.contains("apt-get, dnf") && line.contains("pacman"),
        "{line}"
    );
    let line = host.refused(&["web", "chkconfig", "--list"], 1);
    assert!(line.contains("systemctl, rc-update"), "{line}");
}
