//! The limits of a guest for which none are configured.

use std::fs;
use std::time::{Duration, Instant};

use super::super::host::{Host, wait_at_most};
use super::cgroup::{PROCESSES, value};

/// A number of the kernel's.
fn number(path: &str) -> u64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn a_guest_has_a_part_of_the_hosts_processes_unless_its_configuration_says_otherwise() {
    let host = Host::new();
    let kernels =
        ["threads-max", "pid_max"].map(|name| number(&format!("/proc/sys/kernel/{name}")));
    let most = kernels.into_iter().min().unwrap() / 4;
    for (nproc, limit) in [
        (None, most.min(16_384).to_string()),
        (Some("77\n"), "77".to_owned()),
        (Some("inf\n"), "max".to_owned()),
    ] {
        host.sleeper("web");
        if let Some(nproc) = nproc {
            host.set("web", "rlimits/nproc", nproc);
        }
        host.ok(&["web", "start"]);
        assert_eq!(value(&host, "web", PROCESSES), limit, "{nproc:?}");
        host.ok(&["web", "stop"]);
        host.ok(&["--silent", "web", "delete"]);
    }
}

/// A number of a file of `/proc` that has a name before each.
fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

#[test]
fn a_guest_that_writes_without_end_on_its_console_costs_the_host_little() {
    let host = Host::new();
    let styles: &[&str] =
        if fs::read_to_string("/proc/mounts").is_ok_and(|all| all.contains("cgroup2")) {
            &["plain", "sysv", "systemd"]
        } else {
            &["plain", "sysv"]
        };
    for style in styles {
        host.guest(style, &["/usr/bin/yes", &"x".repeat(200)]);
        host.set(style, "apps/init/style", &format!("{style}\n"));
        host.ok(&[style, "start"]);
        let monitor = host.state(style)["monitor"]["pid"].as_i64().unwrap();
        let (io, stat) = (
            format!("/proc/{monitor}/io"),
            format!("/proc/{monitor}/stat"),
        );
        let used = || {
            let text = fs::read_to_string(&stat).unwrap();
            let fields = text.rsplit_once(") ").unwrap().1.split(' ');
            let ticks = fields
                .skip(11)
                .take(2)
                .map(|ticks| ticks.parse::<u64>().unwrap());
            ticks.sum::<u64>() * 10
        };
        let (written, milliseconds) = (field(&io, "wchar: "), used());
        std::thread::sleep(Duration::from_secs(4));
        let written = (field(&io, "wchar: ") - written) >> 20;
        let milliseconds = used() - milliseconds;
        assert!(written <= 12, "{style}: {written} MiB");
        assert!(milliseconds < 1000, "{style}: {milliseconds} ms");
        let state = host.at("state").join(style);
        let kept =
            ["console.log", "console.log.1"].map(|log| state.join(log).metadata().unwrap().len());
        assert!(
            kept.iter().all(|length| *length <= 1 << 20),
            "{style}: {kept:?}"
        );
        let limits = fs::read_to_string(format!("/proc/{monitor}/limits")).unwrap();
        let memory = limits
            .lines()
            .find(|line| line.starts_with("Max data size"));
        assert!(
            memory.unwrap().contains(&(512 << 20).to_string()),
            "{memory:?}"
        );
        host.set(style, "apps/init/killseq", "KILL\n");
        host.ok(&[style, "stop"]);
    }
}

#[test]
fn what_a_guest_writes_late_on_its_console_is_not_lost() {
    let host = Host::new();
    let script = "yes | head -c 6000000; echo the last words";
    host.guest("web", &["/bin/sh", "-c", script]);
    host.ok(&["web", "start"]);
    let begun = Instant::now();
    wait_at_most(Duration::from_mins(1), "it has written all", || {
        host.console("web").ends_with("the last words\n")
    });
    // Four MiB of it at once.
    assert!(begun.elapsed() > Duration::from_millis(500));
}
