//! What the guard costs those who change nothing.

use super::item::Item;
use super::kernel::Kernel;
use super::machine::Machine;

fn overhead(release: u32) {
    let overhead = Item::test("guard::overhead::overhead").shown();
    let machine = Machine::with(Kernel::debian(release)).in_parallel();
    let outcomes = machine.run(&[overhead]);
    assert!(outcomes[0].is_well(), "{}", outcomes[0]);
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
