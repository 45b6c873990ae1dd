//! What the kernel says of a guest's cgroup, in either version.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::host::Host;

/// A file of a guest's cgroup, under its name in version 1, or in version 2.
pub fn cgroup(context: u64, names: [&str; 2]) -> PathBuf {
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

/// What one of them holds.
pub fn value(host: &Host, guest: &str, names: [&str; 2]) -> String {
    let text = fs::read_to_string(cgroup(host.context(guest), names)).unwrap();
    text.trim().to_owned()
}

pub const MEMORY: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];
pub const PROCESSES: [&str; 2] = ["pids.max", "pids.max"];

/// Quota, period and burst, in microseconds.
pub fn time(host: &Host, guest: &str) -> (String, String, String) {
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

/// The share of the processors, as version 2 counts it; 100 is the default.
pub fn weight(host: &Host, guest: &str) -> u64 {
    let path = cgroup(host.context(guest), ["cpu.shares", "cpu.weight"]);
    let number: u64 = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
    if path.ends_with("cpu.shares") {
        (number * 100).div_ceil(1024)
    } else {
        number
    }
}

/// The numbers of a time, as text.
pub fn texts(quota: i64, period: u64, burst: u64) -> (String, String, String) {
    (quota.to_string(), period.to_string(), burst.to_string())
}
