//! Tests under the kernels that Debian 12 and 13 ship, each in a machine of its own.
//!
//! Run by `make test-vm`; the name starts with `debian_12_` or `debian_13_`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod machine;
mod programs;
#[path = "../support/mod.rs"]
mod support;

use machine::Machine;

/// Root, with all that a guard and guests need.
fn is_a_whole_machine(release: u32, kernel: &str) {
    let script = r#"
        set -eu
        uname -r
        cat /sys/kernel/security/lsm; echo
        grep -q 'cgroup2' /proc/self/mounts
        for place in /sys/fs/bpf /sys/kernel/debug /sys/kernel/tracing; do
            [ "$(ls -A "$place" | wc -l)" -ge 0 ]
        done
        grep '^Cap\(Prm\|Bnd\)' /proc/self/status
        unshare --user --map-root-user --mount --pid --fork --mount-proc sh -c 'echo "inside $$"'
        ls -l /sys/kernel/btf/vmlinux >/dev/null
        exit 7
    "#;
    let output = Machine::debian(release).run(&["sh", "-c", script]);
    assert_eq!(output.status, 7, "{}", output.text);
    let mut lines = output.text.lines();
    assert!(lines.next().unwrap().starts_with(kernel), "{}", output.text);
    let modules = lines.next().unwrap();
    assert!(modules.split(',').any(|name| name == "bpf"), "{modules}");
    assert!(output.text.ends_with("inside 1\n"), "{}", output.text);
}

#[test]
fn debian_12_is_a_whole_machine() {
    is_a_whole_machine(12, "6.1.");
}

#[test]
fn debian_13_is_a_whole_machine() {
    is_a_whole_machine(13, "6.12.");
}

#[test]
fn debian_12_invariants() {
    Machine::debian(12).passes("invariants", &["--test-threads=2"]);
}

#[test]
fn debian_13_invariants() {
    Machine::debian(13).passes("invariants", &["--test-threads=2"]);
}

fn guard(release: u32, tests: &[&str]) {
    Machine::debian(release).passes("guard", &[tests, &["--test-threads=1"]].concat());
}

#[test]
fn debian_12_guard_refuses_changes() {
    guard(12, &["whoever_tries", "each_change"]);
}

#[test]
fn debian_13_guard_refuses_changes() {
    guard(13, &["whoever_tries", "each_change"]);
}

#[test]
fn debian_12_guard_keeps_guests_apart() {
    guard(12, &["inv4_"]);
}

#[test]
fn debian_13_guard_keeps_guests_apart() {
    guard(13, &["inv4_"]);
}
