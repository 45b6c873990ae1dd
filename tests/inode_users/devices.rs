//! Files of loop devices, and swap files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::program::Host;
use vhashify_testkit::tree::inode;

use super::{FREE, MOUNTED, Scene, is_shared, skipped};

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
