//! Whole Debian guests, made by debootstrap, on real filesystems: nothing in them changes, most of
//! them is shared, and their own package manager goes on working.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::guests;
use vhashify_testkit::program::{Host, json, vhashify};
use vhashify_testkit::snapshot::{Snapshot, check_store};

/// Two guests and what both were before anything was done.
fn two_guests(filesystem: &Filesystem) -> (Host, [Snapshot; 2]) {
    let host = Host::new(filesystem.path(), 2);
    for (name, guest) in ["alpha", "beta"].iter().zip(&host.guests) {
        fs::remove_dir(guest).unwrap();
        guests::copy(name, guest);
    }
    command(Command::new("sync").arg("-f").arg(filesystem.path()));
    let before = [Snapshot::of(&host.guests[0]), Snapshot::of(&host.guests[1])];
    (host, before)
}

fn inside(guest: &Path, arguments: &[&str]) -> String {
    command(
        Command::new("chroot")
            .arg(guest)
            .args(arguments)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn on(kind: Kind) {
    let filesystem = Filesystem::with_options(kind, 3 << 30, "");
    let (host, [alpha, beta]) = two_guests(&filesystem);
    let report = host.run(&[]);
    let saved = report["bytes_saved"].as_u64().unwrap();
    assert!(
        saved > 50_000_000,
        "two Debian guests share more than {saved} bytes"
    );
    alpha.assert_same(&Snapshot::of(&host.guests[0]), "alpha after the run");
    beta.assert_same(&Snapshot::of(&host.guests[1]), "beta after the run");
    check_store(&host.store());
    assert_eq!(host.run(&[])["files_unified"], 0);

    // What one guest's package manager does, the other does not see, and dpkg finds no file of its
    // own changed.
    inside(&host.guests[1], &["dpkg", "--purge", "iputils-ping"]);
    let package = fs::read_dir(guests::pristine().join(".debs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("/iputils-ping_"))
        .expect("debootstrap kept the package");
    fs::copy(package, host.guests[1].join("tmp/package.deb")).unwrap();
    inside(&host.guests[1], &["dpkg", "-i", "/tmp/package.deb"]);
    assert_eq!(inside(&host.guests[0], &["dpkg", "--verify"]), "");
    assert_eq!(
        inside(&host.guests[1], &["dpkg", "--verify", "iputils-ping"]),
        ""
    );
    alpha.assert_same(&Snapshot::of(&host.guests[0]), "alpha after beta's dpkg");

    let changed = Snapshot::of(&host.guests[1]);
    host.run(&[]);
    changed.assert_same(&Snapshot::of(&host.guests[1]), "beta after another run");
    host.call(["verify", "--deep"]);
    host.deunify(0, &["usr/bin"]);
    host.deunify(1, &[]);
    host.call(["gc"]);
    alpha.assert_same(&Snapshot::of(&host.guests[0]), "alpha after all");
    changed.assert_same(&Snapshot::of(&host.guests[1]), "beta after all");
}

#[test]
fn inv1_inv2_inv3_two_debian_guests_on_ext4() {
    on(Kind::Ext4);
}

#[test]
fn inv1_inv2_inv3_two_debian_guests_on_xfs() {
    on(Kind::Xfs);
}

#[test]
fn inv1_inv2_inv3_two_debian_guests_on_btrfs() {
    on(Kind::Btrfs);
}

#[test]
fn inv2_with_the_built_in_list_a_guests_own_files_stay_its_own() {
    let filesystem = Filesystem::with_options(Kind::Ext4, 3 << 30, "");
    let (host, [alpha, beta]) = two_guests(&filesystem);
    let tree = filesystem.path().join("etc");
    let hash = tree.join(".defaults/apps/vunify/hash");
    fs::create_dir_all(&hash).unwrap();
    std::os::unix::fs::symlink(host.store(), hash.join("root")).unwrap();
    for (name, guest) in ["alpha", "beta"].iter().zip(&host.guests) {
        fs::create_dir_all(tree.join(name).join("apps/vunify")).unwrap();
        std::os::unix::fs::symlink(guest, tree.join(name).join("vdir")).unwrap();
    }
    let mut run = vhashify();
    run.args(["--protect", "none", "--all", "--config-dir"])
        .arg(&tree)
        .arg("--state-dir")
        .arg(host.state());
    let report = json(run);
    assert!(report["files_unified"].as_u64().unwrap() > 3000);
    alpha.assert_same(&Snapshot::of(&host.guests[0]), "alpha after the run");
    beta.assert_same(&Snapshot::of(&host.guests[1]), "beta after the run");
    let objects = check_store(&host.store());
    let is_shared = |path: &str| {
        let inode = vhashify_testkit::tree::inode(&host.guests[0].join(path));
        objects.contains_key(&inode)
    };
    assert!(is_shared("usr/bin/dpkg"));
    for own in [
        "etc/passwd",
        "etc/hostname",
        "var/lib/dpkg/status",
        "etc/debian_version",
    ] {
        assert!(!is_shared(own), "{own}");
    }
}
