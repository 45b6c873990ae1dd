//! The power is cut at any moment: invariants 1 to 5 hold on what is left, and the next run finishes
//! or undoes what was begun.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::filesystem::Kind;
use support::numbers::Numbers;
use support::power::cut_power;

#[test]
fn inv6_power_cut_at_any_moment_and_finished_by_the_next_run() {
    for kind in Kind::ALL {
        let counts = cut_power(kind, &mut Numbers::new(0x2545_F491_4F6C_DD1D), 10);
        eprintln!("{kind:?} {counts:?}");
    }
}
