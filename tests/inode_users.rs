//! Files of a guest that somebody uses by another way than by their names: layers of mounted overlays, bind mounts in
//! whatever mount namespace, loop devices, swap. Their names must lead to the inode that is used, so they stay as they
//! are, by reasons of their own; and what is mounted over a guest's file stays mounted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each};
use vhashify_testkit::moments::snapshots;
use vhashify_testkit::program::{Host, output};
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, inode, make_file};

const OVERLAY: &str = "in-mounted-overlay";
const MOUNTED: &str = "mounted-or-loop-device";

const CONTENT: Content = Content {
    size: 5000,
    variant: 0,
};

/// A process in mount namespaces of its own, as a container engine makes one. What it has mounted goes with it.
struct Container(Child);

impl Container {
    /// Does `mount` in namespaces that `options` of unshare(1) make, waits for [`Self::finish`], and does `then`.
    fn start(options: &[&str], mount: &str, then: &str, variables: &[(&str, &Path)]) -> Self {
        let script = format!("set -e; {mount}\necho ready; read line; {then}");
        let mut process = Command::new("unshare")
            .args(options)
            .args(["--propagation", "private", "sh", "-c", &script])
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::with_capacity(1, process.stdout.as_mut().unwrap());
        output.read_line(&mut line).unwrap();
        let mut this = Self(process);
        assert!(line == "ready\n", "{mount}: {line}{}", this.errors());
        this
    }

    fn errors(&mut self) -> String {
        let mut said = String::new();
        let errors = self.0.stderr.as_mut().unwrap();
        errors.read_to_string(&mut said).unwrap();
        said
    }

    /// Lets it go on and end; what it said.
    fn finish(mut self) -> String {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut said = String::new();
        let output = self.0.stdout.as_mut().unwrap();
        output.read_to_string(&mut said).unwrap();
        let errors = self.errors();
        assert!(self.0.wait().unwrap().success(), "{errors}");
        said
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A mount of the host; dropping it unmounts it.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0).status());
    }
}

/// Two guests alike. In each: the layers of an overlay, several levels below the root directory, with a file and a
/// link group of which one name is elsewhere; and a file of which nobody but its guest knows.
struct Scene {
    host: Host,
    /// A directory outside of all guests, to mount something at.
    merged: PathBuf,
    /// A second one.
    other: PathBuf,
}

const LOG: &str = "srv/engine/one/up/etc/log";
const GROUP: &str = "srv/engine/one/up/group";
const GROUP_ELSEWHERE: &str = "srv/group";
const FREE: &str = "usr/free";

impl Scene {
    fn new(place: &Path) -> Self {
        let host = Host::new(place, 2);
        for guest in &host.guests {
            let variant = |variant| Content { variant, ..CONTENT };
            make_file(&guest.join(FREE), variant(2), PLAIN);
            make_file(&guest.join("srv/low/lower"), variant(3), PLAIN);
            // An engine makes layers later than the guest came there.
            std::thread::sleep(Duration::from_millis(30));
            make_file(&guest.join(LOG), CONTENT, PLAIN);
            make_file(&guest.join(GROUP), variant(1), PLAIN);
            fs::hard_link(guest.join(GROUP), guest.join(GROUP_ELSEWHERE)).unwrap();
            for directory in [
                "srv/engine/one/work",
                "srv/engine/one/merged",
                "srv/low/old",
            ] {
                fs::create_dir_all(guest.join(directory)).unwrap();
            }
        }
        let (merged, other) = (place.join("merged"), place.join("other"));
        fs::create_dir(&merged).unwrap();
        fs::create_dir(&other).unwrap();
        Self {
            host,
            merged,
            other,
        }
    }

    fn guest(&self) -> &Path {
        &self.host.guests[1]
    }

    fn container(&self, options: &[&str], mount: &str, then: &str) -> Container {
        let variables = [
            ("G", self.guest()),
            ("M", self.merged.as_path()),
            ("O", self.other.as_path()),
        ];
        Container::start(options, mount, then, &variables)
    }
}

fn is_shared(host: &Host, path: &str) -> bool {
    inode(&host.guests[0].join(path)) == inode(&host.guests[1].join(path))
}

fn last_line(path: &Path) -> String {
    let text = fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().last().unwrap_or_default().to_owned()
}

fn skipped(report: &Value, reason: &str) -> u64 {
    report["skipped"][reason].as_u64().unwrap_or(0)
}

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
    let cover = "echo cover >$O/cover; mount --bind $O/cover $G/usr/free; cd /";
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

/// A loop device; dropping it detaches it.
struct LoopDevice(String);

impl LoopDevice {
    fn new(options: &[&str], file: &Path) -> Self {
        let mut attach = Command::new("losetup");
        let device = command(attach.args(options).args(["--show", "-f"]).arg(file));
        Self(device.trim().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        drop(Command::new("losetup").args(["-d", &self.0]).status());
        // The kernel detaches it when the last one who looks at it has closed it.
        let name = self.0.trim_start_matches("/dev/");
        let held = Path::new("/sys/block").join(name).join("loop");
        for _ in 0..500 {
            if !held.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where guests share extents and no names are replaced, all of this may be shared.
#[test]
fn inv5_the_file_below_a_loop_device_stays_whatever_the_device_may_do() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let scene = Scene::new(filesystem.path());
    let file = scene.guest().join(FREE);
    for (options, reason) in [(&["-r"][..], MOUNTED), (&[], "open-for-writing")] {
        let device = LoopDevice::new(options, &file);
        let before = inode(&file);
        for options in [&[][..], &["--refresh"]] {
            let report = scene.host.run(options);
            assert_eq!(skipped(&report, reason), 1, "{options:?}: {report}");
        }
        assert_eq!(inode(&file), before);
        drop(device);
    }
    scene.host.run(&[]);
    assert!(is_shared(&scene.host, FREE));
}

#[test]
fn inv5_a_swap_file_in_use_gets_no_lease() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        // Without holes, as mkswap asks; alike, as a copy of the other guest is.
        fs::write(guest.join("swap"), vec![1; 1 << 20]).unwrap();
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        command(
            Command::new("mkswap")
                .args(["-q", "-U", uuid])
                .arg(guest.join("swap")),
        );
        command(
            Command::new("touch")
                .args(["-d", "2020-01-01"])
                .arg(guest.join("swap")),
        );
        command(Command::new("chmod").arg("600").arg(guest.join("swap")));
    }
    let swap = host.guests[1].join("swap");
    let used = Command::new("swapon").args(["-p", "0"]).arg(&swap).status();
    if !used.unwrap().success() {
        return vhashify_testkit::skip("this kernel takes no swap file here");
    }
    let report = host.run(&[]);
    let mut off = Command::new("swapoff");
    command(off.arg(&swap));
    assert_eq!(skipped(&report, "open-for-writing"), 1, "{report}");
    assert_eq!(fs::metadata(&swap).unwrap().nlink(), 1);
    assert_eq!(host.run(&[])["files_unified"], 1);
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
