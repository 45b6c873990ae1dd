//! Tests under the kernels that Debian 12 and 13 ship, in machines under QEMU: `make test-vm`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`list`] | which tests each kernel is given |
//! | [`machine`] | a machine that runs a list, and says of each item what became of it |
//! | [`item`], [`outcome`] | what it runs, and what became of it |
//! | [`place`] | the directory of a machine |
//! | [`qemu`] | QEMU with a kernel |
//! | [`programs`] | the disk with what it runs |
//! | [`accelerator`] | whether there is KVM |
//! | [`torture`] | the attacks of the torture there: `make torture-vm` |
//! | [`overhead`] | what the guard costs: `make bench-vm` |
//!
//! A test here that boots a machine is ignored; its name starts with `debian_12_` or `debian_13_`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accelerator;
mod item;
mod list;
mod machine;
mod outcome;
mod overhead;
mod place;
mod programs;
mod qemu;
mod torture;

use std::time::Duration;

use item::Item;
use machine::Machine;
use outcome::Outcome;

/// Root with every capability, namespaces, and the mounts of a booted Debian; `bpf` among the
/// security modules without a parameter of ours, as Debian's kernels list it.
const IS_A_WHOLE_MACHINE: &str = r#"
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

fn is_a_whole_machine(outcome: &Outcome, kernel: &str) {
    assert_eq!(outcome.why, None, "{outcome}");
    assert_eq!(outcome.status, Some(7), "{outcome}");
    let mut lines = outcome.text.lines();
    assert!(lines.next().unwrap().starts_with(kernel), "{outcome}");
    let modules = lines.next().unwrap();
    assert!(modules.split(',').any(|name| name == "bpf"), "{modules}");
    assert_eq!(lines.collect::<Vec<_>>(), ["process 1"]);
}

/// Everything that a kernel is given. Each item has a line; what failed is shown whole at the end.
fn kernel(release: u32, kernel: &str) {
    let mut items = vec![Item::script("a whole machine", IS_A_WHOLE_MACHINE)];
    items.extend(list::asked_for());
    let outcomes = Machine::debian(release).run(&items);
    is_a_whole_machine(&outcomes[0], kernel);
    let failed: Vec<String> = outcomes[1..]
        .iter()
        .filter(|outcome| !outcome.is_well())
        .map(ToString::to_string)
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed\n{}",
        failed.len(),
        items.len(),
        failed.join("\n")
    );
}

#[test]
#[ignore = "boots a machine: make test-vm"]
fn debian_12_runs_its_list() {
    kernel(12, "6.1.");
}

#[test]
#[ignore = "boots a machine: make test-vm"]
fn debian_13_runs_its_list() {
    kernel(13, "6.12.");
}

/// What is told of an item is true of that item alone: also where the kernel complains, where a machine
/// stops early, and in the machine that goes on after one that stopped.
#[test]
#[ignore = "boots machines: make test-vm"]
fn debian_13_is_not_believed_when_its_kernel_complains_or_when_it_stops_early() {
    let outcomes = Machine::debian(13).run(&[
        Item::script(
            "complains",
            "echo 'WARNING: CPU: 0 PID: 1 at mm/none.c:1' >/dev/kmsg",
        ),
        Item::script("is well", "echo well; exit 3"),
        Item::script("stops", "echo o >/proc/sysrq-trigger; sleep 600"),
        Item::script("goes on", "echo on"),
    ]);
    let [complains, well, stops, on] = &outcomes[..] else {
        panic!("four outcomes");
    };
    let why = complains.why.as_deref().unwrap();
    assert!(why.contains("complained: "), "{complains}");
    assert!(why.contains("mm/none.c:1"), "{complains}");
    assert_eq!((&well.why, well.status), (&None, Some(3)), "{well}");
    assert_eq!(well.text, "well\n");
    let why = stops.why.as_deref().unwrap();
    assert!(why.contains("stopped before"), "{stops}");
    assert_eq!((&on.why, on.status), (&None, Some(0)), "{on}");
    assert_eq!(on.text, "on\n");
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
#[ignore = "boots machines: make test-vm"]
fn debian_13_is_started_again_when_the_emulator_fails() {
    let complain = "echo 'Oops: int3: 0000 [#1] none' >/dev/kmsg; echo complained";
    let outcomes = Machine::debian(13)
        .tries(2)
        .run(&[Item::script("complains", complain)]);
    let why = outcomes[0].why.as_deref().unwrap();
    assert!(why.contains("complained: "), "{}", outcomes[0]);
    let boots = if accelerator::is_emulated() { 2 } else { 1 };
    assert_eq!(outcomes[0].boots, boots);
}

#[test]
#[ignore = "boots a machine: make test-vm"]
fn debian_13_is_stopped_at_its_time_limit() {
    let outcomes = Machine::debian(13)
        .time_limit(Duration::from_secs(1))
        .run(&[Item::script("nothing", "true")]);
    let why = outcomes[0].why.as_deref().unwrap();
    assert!(why.contains("still running"), "{}", outcomes[0]);
}
