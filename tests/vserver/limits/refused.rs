//! Limits and settings that mean nothing.

use std::fs;

use super::super::host::Host;
use super::cgroup::{PROCESSES, value};

#[test]
fn limits_of_a_guest_that_does_not_run_cannot_be_changed() {
    let host = Host::new();
    host.sleeper("web");
    for name in ["vlimit", "vsched", "vattribute"] {
        let arguments: &[&str] = match name {
            "vlimit" => &["--nproc", "9"],
            "vsched" => &["--weight", "9"],
            _ => &["--get"],
        };
        for guest in ["web", "nobody", "49152"] {
            let mut all = vec![name, "--xid", guest];
            all.extend(arguments);
            let line = host.refused(&all, 1);
            assert!(line.contains("not running"), "{line}");
        }
    }
}

#[test]
fn limits_that_mean_nothing_are_refused_and_change_nothing() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let before = value(&host, "web", PROCESSES);
    for (arguments, status, said) in [
        (&["vlimit"][..], 2, "no limit"),
        (&["vlimit", "--openfd", "9"], 1, "--openfd"),
        (&["vlimit", "-M", "--nofile", "9"], 1, "nofile"),
        (
            &["vlimit", "-S", "-H", "--nofile", "9", "--nproc", "5"],
            2,
            "one by one",
        ),
        (&["vlimit", "--io-max", "/dev/null:rbps=1"], 2, "no disk"),
        (
            &["vlimit", "--io-max", "/dev/nothing:rbps=1"],
            2,
            "no such file",
        ),
        (&["vlimit", "--io-max", "rubbish"], 2, "rubbish"),
        (&["vlimit", "--dir", "/no/such"], 2, "/no/such"),
        (&["vlimit", "--rss", "9999999999999999"], 2, "pages"),
        (&["vsched"], 2, "--help"),
        (&["vsched", "--fill-rate2", "5"], 1, "--fill-rate2"),
        (&["vsched", "--quota", "5"], 2, "1000"),
        (
            &["vsched", "--quota", "5000", "--burst", "6000"],
            2,
            "--burst",
        ),
    ] {
        let (name, rest) = arguments.split_first().unwrap();
        let mut all = vec![*name, "--xid", "web"];
        all.extend(rest);
        let line = host.refused(&all, status);
        assert!(line.contains(said), "{line}");
    }
    for arguments in [
        ["vlimit", "--nproc", "many"],
        ["vlimit", "--nproc", "-5"],
        ["vsched", "--prio-bias", "20"],
        ["vsched", "--fill-rate", "0"],
    ] {
        let [name, option, value] = arguments;
        let output = host.run(&[name, "--xid", "web", option, value]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(value(&host, "web", PROCESSES), before);
}

#[test]
fn settings_that_mean_nothing_keep_a_guest_from_starting() {
    let host = Host::new();
    host.sleeper("web");
    for (setting, text, said) in [
        ("sched/fill-rate", "0\n", "0"),
        ("sched/prio-bias", "99\n", "99"),
        ("schedule", "1\n", "five lines"),
        ("ionice/class", "fast\n", "fast"),
        ("ionice/priority", "8\n", "8"),
        ("sysctl/0/setting", "../../etc\n", "name of a parameter"),
        ("personality", "SOLARIS\n", "SOLARIS"),
        ("vdevmap/a/device", "/dev/../etc/x\n", "plain path"),
        ("rlimits/nproc", "few\n", "few"),
    ] {
        if setting.starts_with("vdevmap") {
            host.set("web", "vdevmap/a/open", "");
        }
        host.set("web", setting, text);
        let line = host.refused(&["web", "start"], 2);
        assert!(line.contains(said) && line.contains(setting), "{line}");
        let top = setting.split('/').next().unwrap();
        let path = host.at("conf/web").join(top);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}
