//! Guests with users of their own: another number on the host, the same on the disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use vhashify_testkit::filesystem::command;

use super::host::{Host, wait_at_most};

const CONTEXT: u32 = 1280;

fn guest(host: &Host, context: u32) {
    host.sleeper("web");
    host.set("web", "context", &format!("{context}\n"));
    host.set("web", "spaces/user", "own\n");
}

#[test]
fn inv2_users_of_a_guest_are_others_on_the_host_and_the_same_on_the_disk() {
    let host = Host::new();
    guest(&host, CONTEXT);
    // Its files are the same inodes.
    host.sleeper("other");
    for name in ["web", "other"] {
        host.ok(&[name, "start"]);
    }
    let of_host = CONTEXT << 16;
    let init = host.state("web")["init"]["pid"].as_i64().unwrap();
    let process = fs::metadata(format!("/proc/{init}")).unwrap();
    assert_eq!((process.uid(), process.gid()), (of_host, of_host));
    let script = "id -u; cut -c1-9 /root/mine 2>/dev/null; touch /root/mine /root/given; \
                  chown 33:4 /root/given; stat -c '%u %g' /root/given /etc/passwd /etc/shadow";
    let (status, said) = host.script("web", script);
    assert_eq!((status, said.as_str()), (0, "0\n33 4\n0 0\n0 42\n"));
    let user = [
        "web",
        "suexec",
        "www-data",
        "sh",
        "-c",
        "id -u; touch /tmp/of-www",
    ];
    assert_eq!(host.ok(&user), "33\n");
    let owner = |path: &str| {
        let found = host.vdir("web").join(path).metadata().unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(owner("root/mine"), (0, 0));
    assert_eq!(owner("root/given"), (33, 4));
    assert_eq!(owner("tmp/of-www"), (33, 33));
    let inode = |name: &str| host.vdir(name).join("etc/shadow").metadata().unwrap().ino();
    assert_eq!(inode("web"), inode("other"));
    let (_, said) = host.script("other", "stat -c '%u %g' /etc/passwd /etc/shadow");
    assert_eq!(said, "0 0\n0 42\n");
    // A file of a number that the guest does not have is nobody's, and root of it has no power over it.
    let alien = host.vdir("web").join("alien");
    fs::write(&alien, "").unwrap();
    std::os::unix::fs::chown(&alien, Some(70_000), Some(70_000)).unwrap();
    let (status, said) = host.script("web", "stat -c %u /alien; chown 0 /alien");
    assert!(status != 0 && said.starts_with("65534\n"), "{said}");
    // What it has on the host is nothing.
    let (_, said) = host.script("web", "cat /proc/self/uid_map");
    let map: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(map, ["0", &of_host.to_string(), "65535"]);
    host.ok(&["web", "stop"]);
    host.assert_nothing_is_left("web", CONTEXT.into());
}

#[test]
fn systemd_boots_a_guest_with_users_of_its_own() {
    let host = Host::new();
    host.guest_like("booting", "web", &[]);
    host.set("web", "context", "1281\n");
    host.set("web", "apps/init/style", "systemd\n");
    host.set("web", "spaces/user", "own\n");
    host.ok(&["web", "start"]);
    let is_up = || host.script("web", "systemctl is-system-running").1 == "running\n";
    wait_at_most(Duration::from_mins(1), "systemd boots it", is_up);
    host.ok(&["web", "stop"]);
    assert!(
        host.console("web").contains("Halting system"),
        "{}",
        host.console("web")
    );
    host.assert_nothing_is_left("web", 1281);
}

#[test]
fn a_filesystem_that_cannot_show_other_numbers_is_named() {
    let host = Host::new();
    guest(&host, 1282);
    let vdir = host.vdir("web");
    command(
        Command::new("mount")
            .args(["-t", "ramfs", "none"])
            .arg(&vdir),
    );
    command(
        Command::new("mkdir")
            .args(["proc", "dev", "sys", "bin"])
            .current_dir(&vdir),
    );
    let output = host.run(&["web", "start"]);
    command(Command::new("umount").arg(&vdir));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("spaces/user needs a filesystem"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!host.at("state/web/guest.json").exists());
    host.set("web", "nonetns", "");
    let line = host.refused(&["web", "start"], 2);
    assert!(line.contains("spaces/user"), "{line}");
}

/// The user of the host that process 1 is.
fn owner_of_init(host: &Host, name: &str) -> u32 {
    let init = host.state(name)["init"]["pid"].as_i64().unwrap();
    fs::metadata(format!("/proc/{init}")).unwrap().uid()
}

#[test]
fn a_guest_has_users_of_its_own_unless_it_says_otherwise() {
    let host = Host::new();
    for (setting, own) in [(None, true), (Some("own\n"), true), (Some("host\n"), false)] {
        host.sleeper("web");
        fs::remove_file(host.at("conf/web/spaces/user")).unwrap();
        if let Some(setting) = setting {
            host.set("web", "spaces/user", setting);
        }
        let output = host.run(&["web", "start"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{setting:?}");
        let first = u32::try_from(host.context("web")).unwrap() << 16;
        assert_eq!(
            owner_of_init(&host, "web"),
            if own { first } else { 0 },
            "{setting:?}"
        );
        assert_eq!(host.ok(&["web", "exec", "id", "-u"]), "0\n");
        host.ok(&["web", "stop"]);
        host.ok(&["--silent", "web", "delete"]);
    }
}

#[test]
fn a_guest_that_cannot_have_users_of_its_own_says_so_at_its_start() {
    let host = Host::new();
    for (setting, value, why) in [
        ("nonetns", "", "shares the host's network"),
        ("vdevmap/1/open", "", "devices"),
        ("fstab", "/srv /srv none bind\n", "fstab mounts /srv"),
        (
            "sysctl/1/setting",
            "kernel.msgmni\n",
            "sysctl sets kernel.msgmni",
        ),
        (
            "bcapabilities",
            "SYS_TIME\n",
            "bcapabilities gives it CAP_SYS_TIME",
        ),
    ] {
        host.sleeper("web");
        fs::remove_file(host.at("conf/web/spaces/user")).unwrap();
        host.set("web", setting, value);
        match setting {
            "vdevmap/1/open" => host.set("web", "vdevmap/1/device", "/dev/kmsg\n"),
            "sysctl/1/setting" => host.set("web", "sysctl/1/value", "1234\n"),
            _ => {}
        }
        let output = host.run(&["web", "start"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{setting}: {said}");
        assert!(
            said.contains(why) && said.contains("spaces/user"),
            "{setting}: {said}"
        );
        assert_eq!(owner_of_init(&host, "web"), 0, "{setting}");
        host.ok(&["web", "stop"]);
        // One who wants that is not told again.
        host.set("web", "spaces/user", "host\n");
        let output = host.run(&["web", "start"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("spaces/user"), "{setting}: {said}");
        host.ok(&["web", "stop"]);
        host.ok(&["--silent", "web", "delete"]);
    }
}

#[test]
fn a_guest_whose_filesystem_cannot_show_other_numbers_starts_and_says_so() {
    let host = Host::new();
    host.sleeper("web");
    fs::remove_file(host.at("conf/web/spaces/user")).unwrap();
    // A mount in it is enough.
    let mounted = host.vdir("web").join("srv");
    command(
        Command::new("mount")
            .args(["-t", "ramfs", "none"])
            .arg(&mounted),
    );
    let output = host.run(&["web", "start"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let owner = output.status.success().then(|| owner_of_init(&host, "web"));
    if owner.is_some() {
        host.ok(&["web", "stop"]);
    }
    command(Command::new("umount").arg(&mounted));
    assert_eq!(owner, Some(0), "{said}");
    assert!(
        said.contains("cannot show files under other numbers"),
        "{said}"
    );
}
