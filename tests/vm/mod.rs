//! Tests under kernels that Debian ships, in machines under QEMU: those of Debian 12 and 13 and the newest of
//! backports by `make test-vm`, those between by `make test-kernels`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`list`] | which tests each kernel is given |
//! | [`kernel`] | the kernels |
//! | [`machine`] | a machine that runs a list, and says of each item what became of it |
//! | [`item`], [`outcome`] | what it runs, and what became of it |
//! | [`place`] | the directory of a machine |
//! | [`qemu`] | QEMU with a kernel |
//! | [`programs`] | the disk with what it runs |
//! | [`accelerator`] | what a machine runs on, and whether there is KVM |
//! | [`torture`] | the attacks of the torture there: `make torture-vm` |
//! | [`overhead`] | what the guard costs: `make bench-vm` |
//!
//! A test here that boots a machine is ignored. Its name starts with `debian_` for `make test-vm`, with
//! `kernels_between_` for `make test-kernels`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accelerator;
mod item;
mod kernel;
mod list;
mod machine;
mod outcome;
mod overhead;
mod place;
mod programs;
mod qemu;
mod torture;

use std::sync::Mutex;
use std::time::Duration;

use accelerator::Accelerator;
use item::Item;
use kernel::Kernel;
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

fn is_a_whole_machine(outcome: &Outcome, version: &str) {
    assert_eq!(outcome.why, None, "{outcome}");
    assert_eq!(outcome.status, Some(7), "{outcome}");
    let mut lines = outcome.text.lines();
    assert_eq!(lines.next(), Some(version), "{outcome}");
    let modules = lines.next().unwrap();
    assert!(modules.split(',').any(|name| name == "bpf"), "{modules}");
    assert_eq!(lines.collect::<Vec<_>>(), ["process 1"]);
}

/// Runs a list under a kernel. Each item has a line; what failed is told whole.
fn failures(kernel: &Kernel, list: Vec<Item>) -> Vec<String> {
    let mut items = vec![Item::script("a whole machine", IS_A_WHOLE_MACHINE)];
    items.extend(list::asked_for(list));
    let outcomes = Machine::with(kernel.clone()).run(&items);
    is_a_whole_machine(&outcomes[0], &kernel.version());
    let failed = outcomes[1..].iter().filter(|outcome| !outcome.is_well());
    failed.map(ToString::to_string).collect()
}

fn runs(kernel: &Kernel, list: Vec<Item>) {
    assert_none(&failures(kernel, list));
}

fn assert_none(failed: &[String]) {
    let all = failed.join("\n");
    assert!(failed.is_empty(), "{} failed\n{all}", failed.len());
}

#[test]
#[ignore = "boots a machine: make test-vm"]
fn debian_12_runs_its_list() {
    let kernel = Kernel::debian(12);
    assert_eq!(kernel.series(), (6, 1));
    runs(&kernel, list::whole());
}

#[test]
#[ignore = "boots a machine: make test-vm"]
fn debian_13_runs_its_list() {
    let kernel = Kernel::debian(13);
    assert_eq!(kernel.series(), (6, 12));
    runs(&kernel, list::whole());
}

#[test]
#[ignore = "boots a machine: make test-vm"]
fn debian_backports_runs_its_list() {
    let kernel = Kernel::backports();
    assert!(kernel.series() > (6, 12), "{}", kernel.version());
    runs(&kernel, list::of_what_kernels_change());
}

/// Two machines at a time.
#[test]
#[ignore = "an hour: make test-kernels"]
fn kernels_between_run_the_tests_of_the_guard() {
    let kernels = Mutex::new(Kernel::between().into_iter());
    let failed = Mutex::new(Vec::new());
    let next = || kernels.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(kernel) = next() {
                    let of_this = failures(&kernel, list::of_the_guard());
                    failed.lock().unwrap().extend(of_this);
                }
            });
        }
    });
    assert_none(&failed.into_inner().unwrap());
}

/// What is told of an item is true of that item alone: also where the kernel complains, where a machine
/// stops early, and in the machine that goes on after one that stopped.
#[test]
#[ignore = "boots machines: make test-vm"]
fn debian_13_is_not_believed_when_its_kernel_complains_or_when_it_stops_early() {
    let outcomes = Machine::with(Kernel::debian(13)).run(&[
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
    assert!(Accelerator::Parallel.has_failed(kernel_6_12));
    assert!(Accelerator::Parallel.has_failed(kernel_6_1));
    assert!(!Accelerator::Parallel.has_failed(own));
    assert!(!Accelerator::InTurns.has_failed(kernel_6_12));
    assert!(!Accelerator::Kvm.has_failed(kernel_6_12));
}

/// A machine whose emulator fails is started again, and believed no more than another in the end.
#[test]
#[ignore = "boots machines: make test-vm"]
fn debian_13_is_started_again_when_the_emulator_fails() {
    let complain = "echo 'Oops: int3: 0000 [#1] none' >/dev/kmsg; echo complained";
    let outcomes = Machine::with(Kernel::debian(13))
        .in_parallel()
        .tries(2)
        .run(&[Item::script("complains", complain)]);
    let why = outcomes[0].why.as_deref().unwrap();
    assert!(why.contains("complained: "), "{}", outcomes[0]);
    let boots = if qemu::has_kvm() { 1 } else { 2 };
    assert_eq!(outcomes[0].boots, boots);
}

#[test]
#[ignore = "boots a machine: make test-vm"]
fn debian_13_is_stopped_at_its_time_limit() {
    let outcomes = Machine::with(Kernel::debian(13))
        .time_limit(Duration::from_secs(1))
        .run(&[Item::script("nothing", "true")]);
    let why = outcomes[0].why.as_deref().unwrap();
    assert!(why.contains("still running"), "{}", outcomes[0]);
}
