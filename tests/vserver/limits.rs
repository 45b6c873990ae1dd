//! What a guest may use: as it is configured, and changed while it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vhashify_testkit::filesystem::command;

use super::host::{Host, wait_at_most, wait_until};

/// A file of a guest's cgroup, under its name in version 1, or in version 2.
fn cgroup(context: u64, names: [&str; 2]) -> PathBuf {
    let tops = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let mut tops: Vec<PathBuf> = tops.map(|entry| entry.path()).collect();
    tops.push("/sys/fs/cgroup".into());
    let found = tops.iter().find_map(|top| {
        let place = top.join("vserver").join(context.to_string());
        names
            .iter()
            .map(|name| place.join(name))
            .find(|path| path.is_file())
    });
    found.unwrap_or_else(|| panic!("there is no {names:?}"))
}

fn value(host: &Host, guest: &str, names: [&str; 2]) -> String {
    let text = fs::read_to_string(cgroup(host.context(guest), names)).unwrap();
    text.trim().to_owned()
}

const MEMORY: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];
const PROCESSES: [&str; 2] = ["pids.max", "pids.max"];

/// Quota, period and burst, in microseconds.
fn time(host: &Host, guest: &str) -> (String, String, String) {
    let context = host.context(guest);
    let place = cgroup(context, ["cpu.cfs_quota_us", "cpu.max"]);
    let burst = cgroup(context, ["cpu.cfs_burst_us", "cpu.max.burst"]);
    let read = |path: &Path| fs::read_to_string(path).unwrap().trim().to_owned();
    let (quota, period) = if place.ends_with("cpu.max") {
        let text = read(&place);
        let (quota, period) = text.split_once(' ').unwrap();
        (quota.replace("max", "-1"), period.to_owned())
    } else {
        (
            read(&place),
            read(&place.with_file_name("cpu.cfs_period_us")),
        )
    };
    (quota, period, read(&burst))
}

fn weight(host: &Host, guest: &str) -> u64 {
    let path = cgroup(host.context(guest), ["cpu.shares", "cpu.weight"]);
    let number: u64 = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
    if path.ends_with("cpu.shares") {
        (number * 100).div_ceil(1024)
    } else {
        number
    }
}

/// The numbers of a time, as text.
fn texts(quota: i64, period: u64, burst: u64) -> (String, String, String) {
    (quota.to_string(), period.to_string(), burst.to_string())
}

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
fn the_token_bucket_of_the_configuration_holds_from_the_start_on() {
    let host = Host::new();
    host.sleeper("web");
    for (name, text) in [
        ("fill-rate", "1\n"),
        ("interval", "4\n"),
        ("tokens-max", "2\n"),
    ] {
        host.set("web", &format!("sched/{name}"), text);
    }
    host.set("web", "rlimits/rss", "16384\n");
    host.set("web", "rlimits/nproc", "77\n");
    host.ok(&["web", "start"]);
    assert_eq!(time(&host, "web"), texts(10_000, 40_000, 10_000));
    assert_eq!(weight(&host, "web"), 100);
    assert_eq!(value(&host, "web", MEMORY), (64 << 20).to_string());
    assert_eq!(value(&host, "web", PROCESSES), "77");
    // It has a quarter of a processor, whatever it would like to have. Where others leave it less than that,
    // the kernel has nothing to hold back.
    let stat = cgroup(host.context("web"), ["cpu.cfs_quota_us", "cpu.max"]);
    wait_at_most(Duration::from_mins(2), "it is throttled", || {
        host.script("web", "timeout 2 sh -c 'while :; do :; done'");
        let stat = fs::read_to_string(stat.with_file_name("cpu.stat")).unwrap();
        let throttled = stat
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled "));
        throttled.unwrap().parse::<u64>().unwrap() > 10
    });
    host.sleeper("old");
    host.set("old", "schedule", "7\n32\n500\n0\n100\ndummy\n");
    host.ok(&["old", "start"]);
    assert_eq!(time(&host, "old"), texts(70_000, 320_000, 70_000));
    host.sleeper("soft");
    host.set("soft", "schedule", "1\n2\n500\n0\n100\n");
    host.set("soft", "flags", "sched_prio\n");
    host.ok(&["--silent", "soft", "start"]);
    assert_eq!(time(&host, "soft").0, "-1");
    assert_eq!(weight(&host, "soft"), 200);
}

#[test]
fn priorities_personality_and_processors_are_inherited_and_taken_over() {
    let host = Host::new();
    host.guest(
        "web",
        &[
            "/bin/sh",
            "-c",
            "uname -m; cat /proc/self/personality; exec sleep 1000",
        ],
    );
    host.set("web", "personality", "LINUX32\nADDR_NO_RANDOMIZE\n");
    host.set("web", "ionice/class", "3\n");
    host.set("web", "nice", "7\n");
    host.set("web", "cpuset/cpus", "0\n");
    host.ok(&["web", "start"]);
    wait_until("init says it", || host.console("web").lines().count() == 2);
    assert!(
        host.console("web").ends_with("\n00040008\n"),
        "{}",
        host.console("web")
    );
    let (_, text) = host.script(
        "web",
        "cat /proc/self/personality; nice; ionice; ionice -p 1; grep Cpus_allowed_list /proc/self/status",
    );
    assert_eq!(text, "00040008\n7\nidle\nidle\nCpus_allowed_list:\t0\n");
    // Neither the host nor another guest has it.
    let own = fs::read_to_string("/proc/self/personality").unwrap();
    assert_eq!(own.trim(), "00000000");
    host.sleeper("mail");
    host.set("mail", "ionice/class", "best-effort\n");
    host.set("mail", "ionice/priority", "6\n");
    host.ok(&["mail", "start"]);
    let (_, text) = host.script("mail", "cat /proc/self/personality; ionice -p 1; ionice");
    assert_eq!(text, "00000000\nbest-effort: prio 6\nbest-effort: prio 6\n");
}

#[test]
fn kernel_parameters_are_the_guests_own_or_are_refused() {
    let host = Host::new();
    host.sleeper("web");
    let before = fs::read_to_string("/proc/sys/vm/swappiness").unwrap();
    let forward = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let queues = fs::read_to_string("/proc/sys/kernel/msgmni").unwrap();
    for (name, setting, value) in [
        ("0", "net.ipv4.ip_default_ttl", "99"),
        ("1", "kernel/msgmni", "1234"),
        ("2", "vm.swappiness", "1"),
        ("3", "net.ipv4.conf.eth0.rp_filter", "2"),
    ] {
        host.set("web", &format!("sysctl/{name}/setting"), setting);
        host.set("web", &format!("sysctl/{name}/value"), value);
    }
    host.set("web", "interfaces/0/ip", "10.99.7.2\n");
    let output = host.run(&["web", "start"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("vm.swappiness has no effect"), "{said}");
    let (_, text) = host.script(
        "web",
        "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmni \
         /proc/sys/net/ipv4/conf/eth0/rp_filter",
    );
    assert_eq!(text, "99\n1234\n2\n");
    assert_eq!(
        fs::read_to_string("/proc/sys/vm/swappiness").unwrap(),
        before
    );
    assert_eq!(
        fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
        forward
    );
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/msgmni").unwrap(),
        queues
    );
    assert_ne!(
        fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl")
            .unwrap()
            .trim(),
        "99"
    );
    host.ok(&["--silent", "web", "stop"]);
    host.set("web", "context", "1237\n");
    host.set("web", "sysctl/0/value", "lots\n");
    let output = host.run(&["--silent", "web", "start"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("net.ipv4.ip_default_ttl") && said.lines().count() == 1,
        "{said}"
    );
    host.assert_nothing_is_left("web", 1237);
}

#[test]
fn a_device_is_in_a_guest_only_if_its_map_says_so() {
    let host = Host::new();
    host.sleeper("web");
    host.set("web", "vdevmap/a/device", "/dev/other/nothing\n");
    host.set("web", "vdevmap/a/target", "/dev/zero\n");
    host.set("web", "vdevmap/a/remap", "");
    host.set("web", "vdevmap/b/device", "/dev/kmsg\n");
    host.ok(&["web", "start"]);
    let (_, text) = host.script("web", "ls /dev/other /dev/kmsg 2>&1 | grep -c 'No such'");
    assert_eq!(text.trim(), "2", "nothing says open");
    host.ok(&["web", "stop"]);
    host.set("web", "vdevmap/a/open", "");
    host.ok(&["web", "start"]);
    let (_, text) = host.script(
        "web",
        "head -c 3 /dev/other/nothing | od -An -c; ls /dev/kmsg",
    );
    assert!(
        text.contains("\\0  \\0  \\0") && text.contains("No such"),
        "{text}"
    );
    host.ok(&["web", "stop"]);
    host.set("web", "context", "1238\n");
    for (target, said) in [
        ("/etc/passwd\n", "no device"),
        ("/dev/no-such\n", "no such file"),
    ] {
        host.set("web", "vdevmap/a/target", target);
        let line = host.refused(&["web", "start"], 2);
        assert!(line.contains(said) && line.contains("vdevmap"), "{line}");
        host.assert_nothing_is_left("web", 1238);
    }
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

#[test]
fn limits_that_mean_nothing_are_refused_and_change_nothing() {
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
    host.ok(&["web", "start"]);
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
    assert_eq!(value(&host, "web", PROCESSES), "max");
    host.ok(&["web", "stop"]);
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
