//! Layers of mounted overlays.

use serde_json::Value;
use vhashify_testkit::filesystem::{Filesystem, Kind, on_each};
use vhashify_testkit::moments::snapshots;
use vhashify_testkit::program::output;
use vhashify_testkit::snapshot::check_store;

use super::{FREE, GROUP, GROUP_ELSEWHERE, LOG, Scene, is_shared, last_line, skipped};

const OVERLAY: &str = "in-mounted-overlay";

const WRITE: &str = "echo >>$M/etc/log; echo 'a later line' >>$M/etc/log";

/// Ways to mount an overlay whose upper directory lies in a guest: options of unshare(1), how, what is written then,
/// and where the upper directory is afterwards.
const OVERLAYS: [(&str, &[&str], &str, &str, &str); 8] = [
    (
        "by absolute paths",
        &["-m"],
        "U=$G/srv/engine/one; mount -t overlay o -o lowerdir=$G/srv/low,upperdir=$U/up,workdir=$U/work $M",
        WRITE,
        LOG,
    ),
    (
        "by relative paths, beside the mount point, as Docker does for many layers",
        &["-m"],
        "cd $G/srv/engine; M=$G/srv/engine/one/merged
         mount -t overlay o -o lowerdir=../low,upperdir=one/up,workdir=one/work $M",
        WRITE,
        LOG,
    ),
    (
        "by relative paths, at another place",
        &["-m"],
        "cd $G/srv/engine/one; mount -t overlay o -o lowerdir=../../low,upperdir=up,workdir=work $M; cd /",
        WRITE,
        LOG,
    ),
    (
        "and then moved",
        &["-m"],
        "U=$G/srv/engine/one; mount -t overlay o -o lowerdir=$G/srv/low,upperdir=$U/up,workdir=$U/work $M
         mkdir -p $G/a/b; mv $G/srv/engine $G/a/b",
        WRITE,
        "a/b/engine/one/up/etc/log",
    ),
    (
        "in a user namespace",
        &["-U", "-r", "-m"],
        "U=$G/srv/engine/one
         mount -t overlay o -o lowerdir=$G/srv/low,upperdir=$U/up,workdir=$U/work,userxattr $M",
        WRITE,
        LOG,
    ),
    (
        "over layers of another filesystem",
        &["-m"],
        "U=$G/srv/engine/one; mount -t tmpfs t $O; mkdir $O/low
         mount -t overlay o -o lowerdir=$O/low,upperdir=$U/up,workdir=$U/work $M",
        WRITE,
        LOG,
    ),
    (
        "over layers of another filesystem, by relative paths",
        &["-m"],
        "mount -t tmpfs t $O; mkdir $O/low; cd $G/srv/engine/one
         mount -t overlay o -o lowerdir=$O/low,upperdir=up,workdir=work $M; cd /",
        WRITE,
        LOG,
    ),
    (
        "as the root of a namespace that shows nothing else",
        &["-m"],
        "cp $(command -v busybox) $G/srv/low/busybox
         U=$G/srv/engine/one; mount -t overlay o -o lowerdir=$G/srv/low,upperdir=$U/up,workdir=$U/work $M
         cd $M; pivot_root . old; cd /; /busybox umount -l /old",
        "echo >>/etc/log; echo 'a later line' >>/etc/log",
        LOG,
    ),
];

#[test]
fn inv5_what_is_written_to_a_mounted_overlay_is_in_its_layer() {
    for (how, options, mount, write, log) in OVERLAYS {
        let filesystem = Filesystem::new(Kind::Ext4);
        let scene = Scene::new(filesystem.path());
        let container = scene.container(options, mount, write);
        // A dry run says the same.
        for options in [&["-n"][..], &[], &["--refresh"]] {
            let report = scene.host.run(options);
            assert!(skipped(&report, OVERLAY) >= 3, "{how}: {report}");
        }
        container.finish();
        assert_eq!(last_line(&scene.guest().join(log)), "a later line", "{how}");
        assert_ne!(last_line(&scene.host.guests[0].join(LOG)), "a later line");
        assert!(is_shared(&scene.host, FREE), "{how}");
        // Lower layers are only read.
        assert!(is_shared(&scene.host, "srv/low/lower"), "{how}");
        check_store(&scene.host.store());
    }
}

#[test]
fn inv5_an_overlay_on_xfs_and_btrfs_too_and_it_is_shared_once_it_is_gone() {
    on_each(|filesystem| {
        let scene = Scene::new(filesystem.path());
        let (_, options, mount, _, _) = OVERLAYS[0];
        let container = scene.container(options, mount, "");
        let before = snapshots(&scene.host);
        let report = scene.host.run(&[]);
        assert_eq!(skipped(&report, OVERLAY), 3, "{report}");
        assert_eq!(report["files_unified"], 2, "{report}");
        for (before, now) in before.iter().zip(snapshots(&scene.host)) {
            before.assert_same(&now, "after a run");
        }
        container.finish();
        assert_eq!(scene.host.run(&[])["files_unified"], 3);
    });
}

#[test]
fn inv5_where_an_upper_directory_cannot_be_found_nothing_is_shared_and_a_line_says_so() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let scene = Scene::new(filesystem.path());
    // It is hidden by another mount. In a namespace that shows nothing else, so that it concerns no other test's guests.
    let container = scene.container(
        &["-m"],
        "mount -t tmpfs t $O; cd $O; mkdir low old merged guest other
         cp $(command -v busybox) busybox; mount --bind $G guest
         pivot_root . old; cd /guest/srv/engine/one; /busybox umount -l /old
         /busybox mount -t overlay -o lowerdir=/low,upperdir=up,workdir=work o /merged; cd /
         /busybox mount -t tmpfs t /merged",
        "/busybox umount /merged; echo >>/merged/etc/log; echo 'a later line' >>/merged/etc/log",
    );
    let mut run = scene.host.run_command(&["--format", "json"]);
    let done = output(&mut run);
    assert!(done.status.success());
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    let guest = scene.guest().to_str().unwrap();
    for word in ["at /merged", "unmount", guest] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    // Of the other guest it shows nothing, and that has nobody to share with.
    assert_eq!(report["files_unified"], 0, "{report}");
    assert_eq!(skipped(&report, OVERLAY), 5, "{report}");
    container.finish();
    assert_eq!(last_line(&scene.guest().join(LOG)), "a later line");
}

#[test]
fn inv5_deunify_leaves_what_a_mounted_overlay_has_and_names_it() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let scene = Scene::new(filesystem.path());
    scene.host.run(&[]);
    let (_, options, mount, _, _) = OVERLAYS[0];
    let container = scene.container(options, mount, "");
    let mut deunify = scene.host.command(["deunify", "--manually"]);
    let done = output(deunify.arg(scene.guest()));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(
        said.contains("/up/etc/log") && said.contains("unmount"),
        "{said}"
    );
    assert!(is_shared(&scene.host, LOG) && is_shared(&scene.host, GROUP_ELSEWHERE));
    assert!(!is_shared(&scene.host, FREE));
    container.finish();
    scene.host.deunify(1, &[]);
    assert!(!is_shared(&scene.host, LOG) && !is_shared(&scene.host, GROUP));
}

#[test]
fn extents_are_shared_with_who_uses_the_inode() {
    let filesystem = Filesystem::new(Kind::Xfs);
    let mut scene = Scene::new(filesystem.path());
    scene.host = scene.host.protected_by("reflink");
    let (_, options, mount, write, _) = OVERLAYS[0];
    let container = scene.container(options, mount, write);
    let report = scene.host.run(&[]);
    assert_eq!(skipped(&report, OVERLAY), 0, "{report}");
    container.finish();
    assert_eq!(last_line(&scene.guest().join(LOG)), "a later line");
    assert_ne!(last_line(&scene.host.guests[0].join(LOG)), "a later line");
}
