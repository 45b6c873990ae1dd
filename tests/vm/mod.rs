//! Tests under the kernels that Debian 12 and 13 ship, each in a machine of its own.
//!
//! Run by `make test-vm`; the name starts with `debian_12_` or `debian_13_`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accelerator;
mod machine;
mod programs;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use machine::Machine;

/// Root with every capability, namespaces, and the mounts of a booted Debian; `bpf` among the
/// security modules without a parameter of ours, as Debian's kernels list it.
fn is_a_whole_machine(release: u32, kernel: &str) {
    let script = r#"
        set -eu
        uname -r
        cat /sys/kernel/security/lsm
        echo
        for place in /proc /sys /sys/fs/cgroup:cgroup2 /sys/kernel/security /sys/fs/bpf:bpf \
            /sys/kernel/debug /sys/kernel/tracing:tracefs /dev/shm /run /tmp; do
            mountpoint --quiet "${place%:*}"
        done
        capsh --has-p=cap_bpf --has-p=cap_sys_admin --has-p=cap_mac_admin
        unshare --user --map-root-user --mount --pid --fork --mount-proc sh -c 'echo "process $$"'
        test -e /sys/kernel/btf/vmlinux
        exit 7
    "#;
    let output = Machine::debian(release).run(&["sh", "-c", script]);
    assert_eq!(output.status, 7, "{}", output.text);
    let mut lines = output.text.lines();
    assert!(lines.next().unwrap().starts_with(kernel), "{}", output.text);
    let modules = lines.next().unwrap();
    assert!(modules.split(',').any(|name| name == "bpf"), "{modules}");
    assert_eq!(lines.collect::<Vec<_>>(), ["process 1"]);
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
fn debian_13_is_not_believed_when_its_kernel_complains() {
    let complain = "echo 'WARNING: CPU: 0 PID: 1 at mm/none.c:1' >/dev/kmsg";
    let failure = Machine::debian(13)
        .try_run(&[], &["sh", "-c", complain])
        .unwrap_err();
    assert!(failure.why.contains("complained: "), "{failure}");
    assert!(failure.why.contains("mm/none.c:1"), "{failure}");
}

#[test]
fn debian_13_is_not_believed_when_it_stops_early() {
    let power_off = "echo o >/proc/sysrq-trigger; sleep 600";
    let failure = Machine::debian(13)
        .try_run(&[], &["sh", "-c", power_off])
        .unwrap_err();
    assert!(failure.why.contains("stopped before"), "{failure}");
}

#[test]
fn a_breakpoint_that_nobody_set_is_the_emulators_fault() {
    let kernel_6_12 = "[    4.327743] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI";
    let kernel_6_1 = "[    4.327743] int3: 0000 [#1] PREEMPT SMP NOPTI";
    let own = "[    4.327743] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI";
    assert!(accelerator::has_failed("tcg,thread=multi", kernel_6_12));
    assert!(accelerator::has_failed("tcg,thread=multi", kernel_6_1));
    assert!(!accelerator::has_failed("kvm", kernel_6_12));
    assert!(!accelerator::has_failed("tcg,thread=multi", own));
}

/// A machine whose emulator fails is started again, and believed no more than another in the end.
#[test]
fn debian_13_is_started_again_when_the_emulator_fails() {
    let complain = "echo 'Oops: int3: 0000 [#1] none' >/dev/kmsg";
    let failure = Machine::debian(13)
        .try_run(&[], &["sh", "-c", complain])
        .unwrap_err();
    assert!(failure.why.contains("complained: "), "{failure}");
}

#[test]
fn debian_13_is_stopped_at_its_time_limit() {
    let failure = Machine::debian(13)
        .time_limit(Duration::from_secs(1))
        .try_run(&[], &["true"])
        .unwrap_err();
    assert!(failure.why.contains("still running"), "{failure}");
}

/// Enough of the invariants to know that the programs do on these kernels what they do here: all of
/// them would take minutes where every instruction is emulated.
const SOME: [&str; 4] = [
    "inv2_files",
    "inv3_a_link_group",
    "inv4_empty",
    "--test-threads=2",
];

#[test]
fn debian_12_invariants() {
    Machine::debian(12).passes("invariants", &SOME);
}

#[test]
fn debian_13_invariants() {
    Machine::debian(13).passes("invariants", &SOME);
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
    guard(12, &["inv4_guests", "inv4_dpkg", "the_guard_stays"]);
}

#[test]
fn debian_13_guard_keeps_guests_apart() {
    guard(13, &["inv4_guests", "inv4_dpkg", "the_guard_stays"]);
}

#[test]
fn debian_12_guard_and_who_is_on_the_way_to_write() {
    guard(12, &["inv4_a_"]);
}

#[test]
fn debian_13_guard_and_who_is_on_the_way_to_write() {
    guard(13, &["inv4_a_"]);
}

#[test]
fn debian_12_verity() {
    Machine::debian(12).passes("verity", &["--test-threads=2"]);
}

#[test]
fn debian_13_verity() {
    Machine::debian(13).passes("verity", &["--test-threads=2"]);
}

/// What a host with cgroup version 2 alone has otherwise than this one: limits, counts, killing and
/// removal; and systemd as a guest's init.
fn guests(release: u32) {
    Machine::debian(release).passes(
        "vserver",
        &[
            "boot::systemd_boots",
            "boot::a_systemd_guest_reboots",
            "inside::limits",
            "life::a_guest_starts",
            "life::a_guest_that_dies",
            "many::vserver_stat",
            "--test-threads=2",
        ],
    );
}

#[test]
fn debian_12_guests_on_cgroup_version_2() {
    guests(12);
}

#[test]
fn debian_13_guests_on_cgroup_version_2() {
    guests(13);
}

/// The broker where the guard is, and quotas: what is written reaches private files, and a program that
/// outruns the broker changes nothing of another guest's.
fn broker(release: u32) {
    let environment = ["env", "VHASHIFY_TEST_PROTECTION=lsm", "/programs/cow"];
    let tests = [
        "broker::a_",
        "broker::inv3_a_",
        "--include-ignored",
        "--test-threads=1",
        "--nocapture",
    ];
    let output = Machine::debian(release)
        .try_run(&["cow"], &[&environment[..], &tests].concat())
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(output.status, 0, "{}", output.text);
    assert!(output.text.contains("8 passed;"), "{}", output.text);
    print(&output.text);
}

#[test]
fn debian_12_broker_and_guard() {
    broker(12);
}

#[test]
fn debian_13_broker_and_guard() {
    broker(13);
}

/// The attacks of the torture that can be made where the guard is, with an adversary beside each. The
/// power is cut from disks that the test serves itself, which is nothing to do under emulation.
const ATTACKS: [&str; 9] = [
    "readers", "kills", "crowd", "names", "random", "swaps", "damage", "writers", "faults",
];

fn torture(release: u32) {
    let environment = ["env", "VHASHIFY_TEST_PROTECTION=lsm", "/programs/torture"];
    let output = Machine::debian(release)
        .time_limit(Duration::from_mins(40))
        .try_run(&["torture"], &[&environment[..], &ATTACKS].concat())
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(output.status, 0, "{}", output.text);
    let is_attacked = output.text.contains(" attempts refused");
    assert!(is_attacked, "{}", output.text);
    print(&output.text);
}

#[test]
#[ignore = "a quarter of an hour: make torture-vm"]
fn debian_12_torture_under_the_guard() {
    torture(12);
}

#[test]
#[ignore = "a quarter of an hour: make torture-vm"]
fn debian_13_torture_under_the_guard() {
    torture(13);
}

/// Seen with `--nocapture`.
#[allow(clippy::print_stdout)]
fn print(text: &str) {
    println!("{text}");
}

fn overhead(release: u32) {
    let program = ["/programs/guard", "--ignored", "--exact"];
    let command = [&program[..], &["overhead::overhead", "--nocapture"]].concat();
    let output = Machine::debian(release)
        .try_run(&["guard"], &command)
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(output.status, 0, "{}", output.text);
    print(&output.text);
}

#[test]
#[ignore = "a measurement: make bench-vm"]
fn debian_12_guard_overhead() {
    overhead(12);
}

#[test]
#[ignore = "a measurement: make bench-vm"]
fn debian_13_guard_overhead() {
    overhead(13);
}
