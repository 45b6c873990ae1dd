//! The torture under the guard.

use std::time::Duration;

use vhashify_testkit::program::PROTECTION;

use super::item::Item;
use super::kernel::Kernel;
use super::list::STALLED;
use super::machine::Machine;

/// The attacks of the torture that can be made where the guard is, with an adversary beside each. The
/// power is cut from disks that the test serves itself, which is nothing to do under emulation.
const ATTACKS: [&str; 9] = [
    "readers", "kills", "crowd", "names", "random", "swaps", "damage", "writers", "faults",
];

fn torture(release: u32) {
    let torture = Item::torture(&ATTACKS).with(PROTECTION, "lsm").shown();
    let outcomes = Machine::with(Kernel::debian(release))
        .in_parallel()
        .time_limit(Duration::from_mins(40))
        .run(&[torture]);
    let outcome = &outcomes[0];
    assert_eq!(
        (&outcome.why, outcome.status),
        (&None, Some(0)),
        "{outcome}"
    );
    let is_attacked = outcome.text.contains(" attempts refused");
    assert!(is_attacked, "{outcome}");
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

/// A thread is stopped anywhere in the kernel, for longer than any pause of a run.
fn stalls(release: u32) {
    let items: Vec<Item> = STALLED
        .iter()
        .map(|name| Item::test(name).shown())
        .collect();
    let outcomes = Machine::with(Kernel::debian(release))
        .in_parallel()
        .time_limit(Duration::from_mins(50))
        .stalls(Duration::from_millis(10), Duration::from_millis(140))
        .run(&items);
    for outcome in &outcomes {
        assert!(outcome.is_well(), "{outcome}");
    }
}

#[test]
#[ignore = "half an hour: make torture-vm"]
fn debian_12_a_processor_stalls() {
    stalls(12);
}

#[test]
#[ignore = "half an hour: make torture-vm"]
fn debian_13_a_processor_stalls() {
    stalls(13);
}
