//! What each kernel is given: tests by their names, in one order for all.
//!
//! | kernel | list |
//! | --- | --- |
//! | of Debian 12 and 13 | [`whole`] |
//! | the newest of backports | [`of_what_kernels_change`]: the guard and the broker, which stand on interfaces that the kernel promises to nobody (types of its own structures, hooks, what a filter may ask), and fs-verity once. Limits, guests and invariants stand on system calls, which stay as they are |
//! | those between | [`of_the_guard`]: it alone has programs that a kernel may refuse |
//!
//! All of a list runs in one machine, one after the other. None needs a machine of its own: the
//! tests of the guard load it themselves and leave none behind, and stand last; the rest neither knows nor
//! minds whether a guard was loaded before.

use std::process::Command;

use vhashify_testkit::program::PROTECTION;

use super::item::Item;

/// Enough of the invariants to know that the programs do on these kernels what they do here: all of
/// them would take minutes where every instruction is emulated.
const INVARIANTS: [&str; 3] = [
    "invariants::inv2_files",
    "invariants::inv3_a_link_group",
    "invariants::inv4_empty",
];

/// What a host with cgroup version 2 alone has otherwise than this one: limits, counts, killing and
/// removal; and systemd as a guest's init.
const GUESTS: [&str; 6] = [
    "vserver::boot::systemd_boots",
    "vserver::boot::a_systemd_guest_reboots",
    "vserver::inside::limits",
    "vserver::life::a_guest_starts",
    "vserver::life::a_guest_that_dies",
    "vserver::many::vserver_stat",
];

/// The one that tries all that fs-verity is for, with trees of every shape.
const VERITY_ONCE: [&str; 1] = ["verity::inv4_nobody_writes"];

/// The broker where the guard is, and quotas: what is written reaches private files, and a program that
/// outruns the broker changes nothing of another guest's.
const BROKER: [&str; 2] = ["cow::broker::a_", "cow::broker::inv3_a_"];

/// A machine of their own has them: one whose processor stalls.
pub const STALLED: [&str; 2] = [
    "guard::stalls::inv5_no_write_is_lost_where_a_processor_stalls",
    "guard::stalls::inv5_no_change_of_metadata_is_lost_where_a_processor_stalls",
];

/// Ignored, and for no machine: these are what other tests start, in processes of their own, ...
const STARTED_BY_TESTS: [&str; 3] = [
    "cow::engine::a_break_as_told",
    "guard::adversary_at_work",
    "guard::task",
];

/// ... and these measure and assert nothing.
const MEASUREMENTS: [&str; 2] = [
    "cow::broker::cost::how_dear_it_is",
    "guard::overhead::overhead",
];

/// Where this names a part of a name, a machine runs the tests that have it, for whoever looks for a fault.
pub const ONLY: &str = "VHASHIFY_VM_ONLY";

/// Those items of a list that are asked for: all, where nothing is.
pub fn asked_for(list: Vec<Item>) -> Vec<Item> {
    let only = std::env::var(ONLY).unwrap_or_default();
    let items = list.into_iter();
    items.filter(|item| item.name.contains(&only)).collect()
}

/// All that a kernel can be asked.
pub fn whole() -> Vec<Item> {
    let anywhere = [&INVARIANTS[..], &["verity::", "placement::inv2_project"]].concat();
    let mut items: Vec<Item> = tests(&anywhere);
    // Their disk has what they make guests of.
    let guests = tests(&GUESTS).into_iter();
    items.extend(guests.map(Item::on_the_disk_with_guests));
    items.extend(of_the_guard());
    items.extend(of_the_broker());
    items
}

/// What a new kernel can break without breaking a promise.
pub fn of_what_kernels_change() -> Vec<Item> {
    [tests(&VERITY_ONCE), of_the_guard(), of_the_broker()].concat()
}

/// The guard: that it loads, refuses every change, and misses each hook that is taken away.
pub fn of_the_guard() -> Vec<Item> {
    tests(&["guard::"])
}

fn of_the_broker() -> Vec<Item> {
    let broker = tests(&BROKER);
    assert_eq!(broker.len(), 8, "{broker:?}");
    let under_the_guard = |item: Item| item.with(PROTECTION, "lsm").shown();
    broker.into_iter().map(under_the_guard).collect()
}

/// The tests whose names begin so.
fn tests(parts: &[&str]) -> Vec<Item> {
    let all = names(&["--list", "--format", "terse", "--include-ignored"]);
    for part in parts {
        assert!(all.iter().any(|name| name.starts_with(part)), "no {part}");
    }
    all.iter()
        .filter(|name| parts.iter().any(|part| name.starts_with(part)))
        .filter(|name| !STARTED_BY_TESTS.contains(&name.as_str()))
        .filter(|name| !MEASUREMENTS.contains(&name.as_str()))
        .filter(|name| !STALLED.contains(&name.as_str()))
        .map(|name| Item::test(name))
        .collect()
}

/// A test that is ignored and that no machine runs is run by nobody.
#[test]
fn each_ignored_test_is_asked_for_by_somebody() {
    let run = whole();
    let unasked: Vec<String> = names(&["--list", "--format", "terse", "--ignored"])
        .into_iter()
        // The machines themselves.
        .filter(|name| !name.starts_with("vm::"))
        .filter(|name| !run.iter().any(|item| item.name == *name))
        .filter(|name| !STARTED_BY_TESTS.contains(&name.as_str()))
        .filter(|name| !MEASUREMENTS.contains(&name.as_str()))
        .filter(|name| !STALLED.contains(&name.as_str()))
        .collect();
    assert!(unasked.is_empty(), "{unasked:?}");
}

/// What this program lists.
fn names(arguments: &[&str]) -> Vec<String> {
    let this = std::env::current_exe().unwrap();
    let listed = Command::new(this).args(arguments).output().unwrap();
    assert!(listed.status.success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}
