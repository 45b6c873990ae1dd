//! The power is cut at any write of a run, a `deunify` or a `gc`, and of the run that mends it.

use vhashify_testkit::power::cut_power;

use crate::attack::{Attack, Field};

pub const ATTACK: Attack = Attack {
    name: "inv6_power",
    invariants: &[1, 2, 3, 6, 7],
    run,
};

/// Cuts of one recording, which takes as long as some cuts.
const OF_A_RECORDING: u64 = 6;

fn run(field: &mut Field<'_>) {
    while field.goes_on() {
        let cuts = cut_power(field.filesystem.kind, &mut field.numbers, OF_A_RECORDING).cuts;
        field.tried("power cuts", cuts);
    }
}
