//! Files that are mounted elsewhere, and what is mounted over them.

use std::fs;
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each};
use vhashify_testkit::program::output;
use vhashify_testkit::tree::inode;

use super::{FREE, GROUP, LOG, MOUNTED, Scene, is_shared, last_line, skipped};

/// A mount of the host; dropping it unmounts it.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0).status());
    }
}

/// Ways to mount a guest's file elsewhere: how, and where it is written to.
const BINDS: [(&str, &str, &str); 4] = [
    (
        "alone",
        "touch $O/file; mount --bind $G/usr/free $O/file",
        "$O/file",
    ),
    (
        "by another name of its link group",
        "touch $O/file; mount --bind $G/srv/group $O/file",
        "$O/file",
    ),
    (
        "on itself",
        "mount --bind $G/usr/free $G/usr/free",
        "$G/usr/free",
    ),
    (
        "behind another mount",
        "mkdir $O/d; touch $O/d/file; mount --bind $G/usr/free $O/d/file; exec 3>&1
         mount -t tmpfs t $O/d",
        "$O/d/file",
    ),
];

#[test]
fn inv5_what_is_written_through_a_bind_mount_is_in_the_guests_file() {
    for (how, mount, target) in BINDS {
        let filesystem = Filesystem::new(Kind::Ext4);
        let scene = Scene::new(filesystem.path());
        let write = format!(
            "umount $O/d 2>/dev/null || :; echo >>{target}; echo 'a later line' >>{target}"
        );
        let container = scene.container(&["-m"], mount, &write);
        for options in [&["-n"][..], &[]] {
            let report = scene.host.run(options);
            assert!(skipped(&report, MOUNTED) >= 1, "{how}: {report}");
        }
        container.finish();
        let name = if how.contains("group") { GROUP } else { FREE };
        assert_eq!(
            last_line(&scene.guest().join(name)),
            "a later line",
            "{how}"
        );
        assert_ne!(last_line(&scene.host.guests[0].join(name)), "a later line");
        assert!(is_shared(&scene.host, LOG), "{how}");
    }
}

#[test]
fn inv5_a_bind_mount_in_the_hosts_own_namespace_counts_too() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        let target = scene.merged.join("file");
        fs::write(&target, "").unwrap();
        let mut mount = Command::new("mount");
        command(
            mount
                .arg("--bind")
                .arg(scene.guest().join(FREE))
                .arg(&target),
        );
        let mounted = Mounted(&target);
        let report = scene.host.run(&[]);
        assert_eq!(skipped(&report, MOUNTED), 1, "{report}");
        assert!(!is_shared(&scene.host, FREE) && is_shared(&scene.host, LOG));
        assert_eq!(inode(&target), inode(&scene.guest().join(FREE)));
        drop(mounted);
    });
}

#[test]
fn inv5_deunify_leaves_what_is_bind_mounted_and_names_it() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let scene = Scene::new(filesystem.path());
    scene.host.run(&[]);
    let container = scene.container(&["-m"], BINDS[0].1, "");
    let mut deunify = scene.host.command(["deunify", "--manually"]);
    let done = output(deunify.arg(scene.guest()));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains(FREE) && said.contains("unmount"), "{said}");
    assert!(is_shared(&scene.host, FREE) && !is_shared(&scene.host, LOG));
    container.finish();
}

#[test]
fn inv6_what_is_mounted_over_a_guests_file_stays_mounted() {
    for cover in [
        "echo cover >$O/cover; mount --bind $O/cover $G/usr/free",
        // As `vserver` does by its fstab, below the guest's root directory.
        "echo cover >$O/cover; mount --bind $G $M; G=$M; mount --bind $O/cover $G/usr/free",
    ] {
        what_is_mounted_over_a_file_stays_mounted(cover);
    }
}

fn what_is_mounted_over_a_file_stays_mounted(cover: &str) {
    let filesystem = Filesystem::new(Kind::Ext4);
    let scene = Scene::new(filesystem.path());
    let container = scene.container(&["-m"], cover, "cat $G/usr/free");
    for options in [&["-n"][..], &[]] {
        let report = scene.host.run(options);
        assert_eq!(skipped(&report, MOUNTED), 1, "{report}");
    }
    assert!(is_shared(&scene.host, LOG) && !is_shared(&scene.host, FREE));
    assert_eq!(container.finish(), "cover\n");

    scene.host.run(&[]);
    assert!(is_shared(&scene.host, FREE));
    let container = scene.container(&["-m"], cover, "cat $G/usr/free");
    let mut deunify = scene.host.command(["deunify", "--manually"]);
    let done = output(deunify.arg(scene.guest()));
    assert_eq!(done.status.code(), Some(1));
    assert!(is_shared(&scene.host, FREE) && !is_shared(&scene.host, LOG));
    assert_eq!(container.finish(), "cover\n");
}
