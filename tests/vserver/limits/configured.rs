//! What the configuration gives a guest holds from its start on.

use std::fs;
use std::time::Duration;

use super::super::host::{Host, wait_at_most, wait_until};
use super::cgroup::{MEMORY, PROCESSES, cgroup, texts, time, value, weight};

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
