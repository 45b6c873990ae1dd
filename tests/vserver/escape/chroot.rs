//! A caller within a chroot, out of which a guest would get.

use std::fs;
use std::process::Command;

use vhashify_testkit::built;

use super::super::host::Host;

/// Defence: `vserver` refuses where its root directory is not that of its mount namespace, by whatever mount it is one.
#[test]
fn no_guest_is_started_or_entered_within_a_chroot() {
    let host = Host::new();
    for name in ["web", "other"] {
        host.sleeper(name);
    }
    host.ok(&["web", "start"]);
    let (place, outside) = (host.at("place"), host.at("outside"));
    fs::create_dir(&place).unwrap();
    fs::write(&outside, "outside").unwrap();
    let vserver = format!(
        "{} --config-dir {} --state-dir {}",
        built::vserver().display(),
        host.at("conf").display(),
        host.at("state").display()
    );
    let run = |make: &str, into: &str, command: &str| {
        let script = format!("set -e; cd /; {make}; exec {into} {vserver} {command} </dev/null");
        let script = script.replace("PLACE", place.to_str().unwrap());
        let mut shell = Command::new("unshare");
        let output = shell
            .args(["--mount", "sh", "-c", &script])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    for (make, into) in [
        // The same tree, by another mount; a copy of the mounts with another filesystem on top.
        ("mount --rbind / PLACE", "chroot PLACE"),
        (
            "mount --rbind / PLACE; mount -t tmpfs none PLACE/mnt",
            "chroot PLACE",
        ),
        // A directory that is no mount point, with all that is needed mounted in it.
        (
            "mkdir -p PLACE/in; for d in usr bin lib lib64 etc proc sys dev run tmp work var; do \
             [ -d /$d ] || continue; mkdir -p PLACE/in/$d; mount --rbind /$d PLACE/in/$d; done; \
             mkdir -p PLACE/in$(dirname PLACE); mount --rbind $(dirname PLACE) PLACE/in$(dirname PLACE); \
             mkdir -p PLACE/in$(dirname VSERVER); mount --bind $(dirname VSERVER) PLACE/in$(dirname VSERVER)",
            "chroot PLACE/in",
        ),
    ] {
        let make = make.replace("VSERVER", built::vserver().to_str().unwrap());
        for command in [
            "other start",
            "web exec cat /etc/passwd",
            "web suexec www-data true",
            "web enter",
            "web pkg list",
            "web chkconfig --list",
        ] {
            let (status, said) = run(&make, into, command);
            assert_eq!(status, Some(1), "{into}: {command}: {said}");
            assert!(said.contains("chroot"), "{into}: {command}: {said}");
        }
        assert!(!host.is_running("other"));
    }
    // The root of a namespace of its own is none.
    let pivot = "mount --rbind / PLACE; cd PLACE; pivot_root . mnt; cd /";
    let (status, said) = run(pivot, "", "web exec true");
    assert_eq!(status, Some(0), "{said}");
}
