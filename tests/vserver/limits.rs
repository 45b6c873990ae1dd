//! What a guest may use: as it is configured, and changed while it runs.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`configured`] | settings of the configuration |
//! | [`defaults`] | what holds without any setting |
//! | [`refused`] | what means nothing |
//! | [`cgroup`] | what the kernel says |

mod cgroup;
mod configured;
mod defaults;
mod refused;

use std::fs;
use std::process::Command;

use vhashify_testkit::filesystem::command;

use super::host::Host;
use cgroup::{MEMORY, PROCESSES, cgroup, texts, time, value, weight};

#[test]
fn vlimit_changes_the_guest_as_a_whole() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let context = host.context("web").to_string();
    assert_eq!(
        host.ok(&["vlimit", "--xid", "web", "--memory", "64M", "--nproc", "9"]),
        ""
    );
    assert_eq!(value(&host, "web", MEMORY), (64 << 20).to_string());
    assert_eq!(value(&host, "web", PROCESSES), "9");
    let (_, text) = host.script("web", "for i in $(seq 20); do sleep 9 & done; echo on");
    assert!(text.contains("fork"), "{text}");
    // By number, in pages, and away again.
    host.ok(&["vlimit", "-c", &context, "--rss", "8192", "--nproc", "inf"]);
    assert_eq!(value(&host, "web", MEMORY), (32 << 20).to_string());
    assert_eq!(value(&host, "web", PROCESSES), "max");
    // A shell that holds 60 MB.
    let hold = r"x=$(head -c 60000000 /dev/zero | tr '\0' a); echo ${#x}";
    let (_, text) = host.script("web", hold);
    assert_ne!(text.trim(), "60000000");
    host.ok(&["vlimit", "--xid", "web", "--rss", "inf"]);
    let (_, text) = host.script("web", hold);
    assert_eq!(text.trim(), "60000000");
    let shown = host.ok(&["vlimit", "--xid", "web", "-a"]);
    for part in ["memory", "nproc", "nofile", "inf"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
}

#[test]
fn vlimit_changes_each_process_and_what_comes_later() {
    let host = Host::new();
    host.guest("web", &["/bin/sh", "-c", "while :; do sleep 1; done"]);
    host.ok(&["web", "start"]);
    host.ok(&["vlimit", "--xid", "web", "--nofile", "300"]);
    let of_init = "grep 'open files' /proc/1/limits";
    let words = |text: &str| -> Vec<String> {
        text.split_whitespace()
            .skip(3)
            .map(str::to_owned)
            .take(2)
            .collect()
    };
    let (_, text) = host.script("web", of_init);
    assert_eq!(words(&text), ["300", "300"]);
    let (_, text) = host.script("web", "ulimit -Sn; ulimit -Hn");
    assert_eq!(text, "300\n300\n");
    host.ok(&["vlimit", "--xid", "web", "-S", "--nofile", "200"]);
    let (_, text) = host.script("web", of_init);
    assert_eq!(words(&text), ["200", "300"]);
    host.ok(&["vlimit", "--xid", "web", "-H", "--nofile", "150"]);
    let (_, text) = host.script("web", "ulimit -Sn; ulimit -Hn");
    assert_eq!(text, "150\n150\n");
    let line = host.refused(&["vlimit", "--xid", "web", "-S", "--nofile", "151"], 1);
    assert!(line.contains("nofile"), "{line}");
    // Of its children, too; and the host's own processes keep theirs.
    let (_, text) = host.script(
        "web",
        "for p in /proc/[0-9]*; do grep 'open files' $p/limits; done",
    );
    for line in text.lines() {
        assert_eq!(words(line), ["150", "150"], "{line}");
    }
    let own = fs::read_to_string("/proc/self/limits").unwrap();
    assert!(!own.contains("Max open files            150 "), "{own}");
    let directory = host.at("limits");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("nofile.hard"), "140\n").unwrap();
    fs::write(directory.join("nofile.soft"), "130\n").unwrap();
    fs::write(directory.join("nproc"), "50\n").unwrap();
    host.ok(&[
        "vlimit",
        "--xid",
        "web",
        "--dir",
        directory.to_str().unwrap(),
    ]);
    let (_, text) = host.script("web", "ulimit -Sn; ulimit -Hn");
    assert_eq!(text, "130\n140\n");
    assert_eq!(value(&host, "web", PROCESSES), "50");
}

#[test]
fn vlimit_limits_what_a_guest_writes_to_a_disk() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let image = host.at("disk.img");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("losetup")
        .args(["--find", "--show"])
        .arg(&image)
        .output()
        .unwrap();
    let disk = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert!(disk.starts_with("/dev/"), "no loop device");
    let specification = format!("{disk}:wbps=1M,riops=100");
    let output = host.run(&["vlimit", "--xid", "web", "--io-max", &specification]);
    let rate = cgroup(
        host.context("web"),
        ["blkio.throttle.write_bps_device", "io.max"],
    );
    let text = fs::read_to_string(rate).unwrap();
    let away = format!("{disk}:wbps=inf,riops=inf");
    let then = host.run(&["vlimit", "--xid", "web", "--io-max", &away]);
    command(Command::new("losetup").args(["--detach", &disk]));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("1048576"), "{text}");
    assert!(then.status.success());
    // The weight is there only where the kernel has a scheduler that knows it.
    let weighed = host.run(&["vlimit", "--xid", "web", "--io-weight", "300"]);
    if weighed.status.success() {
        assert!(value(&host, "web", ["blkio.bfq.weight", "io.weight"]).ends_with("300"));
    } else {
        assert!(String::from_utf8_lossy(&weighed.stderr).contains("no "));
    }
}

#[test]
fn vsched_changes_one_value_and_keeps_the_others() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let sched = |arguments: &[&str]| {
        let mut all = vec!["vsched", "--xid", "web"];
        all.extend(arguments);
        assert_eq!(host.ok(&all), "");
    };
    sched(&["--fill-rate", "1", "--interval", "8"]);
    assert_eq!(time(&host, "web"), texts(10_000, 80_000, 0));
    assert_eq!(weight(&host, "web"), 50);
    sched(&["--interval", "4"]);
    sched(&["--tokens-max", "2", "--prio-bias", "-1"]);
    assert_eq!(time(&host, "web"), texts(10_000, 40_000, 10_000));
    assert_eq!(weight(&host, "web"), 125);
    sched(&["--idle-time"]);
    assert_eq!(time(&host, "web").0, "-1");
    sched(&[
        "--quota", "20000", "--period", "50000", "--burst", "5000", "--weight", "300",
    ]);
    assert_eq!(time(&host, "web"), texts(20_000, 50_000, 5_000));
    assert_eq!(weight(&host, "web"), 300);
    sched(&["--quota", "inf"]);
    assert_eq!(time(&host, "web").0, "-1");
}

#[test]
fn vattribute_shows_and_refuses_by_name() {
    let host = Host::new();
    host.sleeper("web");
    host.set("web", "bcapabilities", "net_raw\n");
    host.ok(&["web", "start"]);
    let shown = host.ok(&["vattribute", "--xid", "web", "--get"]);
    assert!(
        shown.contains("CAP_NET_RAW") && !shown.contains("CAP_SYS_ADMIN"),
        "{shown}"
    );
    let set = |arguments: &[&'static str]| {
        let mut all = vec!["vattribute", "--xid", "web", "--set"];
        all.extend(arguments);
        all
    };
    // What is so already is done.
    host.ok(&set(&[
        "--bcap",
        "net_raw",
        "--bcap",
        "~sys_admin",
        "--flag",
        "~lock",
    ]));
    for (arguments, said) in [
        (&["--bcap", "CAP_SYS_ADMIN"][..], "CAP_SYS_ADMIN"),
        (&["--bcap", "~net_raw"], "~CAP_NET_RAW"),
        (&["--ccap", "mount"], "mount"),
        (&["--flag", "hide_info"], "hide_info"),
        (&["--umask", "newns"], "--umask"),
        (&["--secure"], "CAP_NET_RAW"),
    ] {
        let line = host.refused(&set(arguments), 1);
        assert!(line.contains(said), "{line}");
    }
    let line = host.refused(&set(&["--bcap", "fly"]), 2);
    assert!(line.contains("fly"), "{line}");
}
