//! Random guests: nothing of them changes, all that can be shared is, and all of it can be given back.

use std::fs;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use vhashify_testkit::everything::check_everything;
use vhashify_testkit::tree;

use crate::attack::{Attack, Field};

pub const ATTACK: Attack = Attack {
    name: "inv1_inv2_inv3_random",
    invariants: &[1, 2, 3, 7],
    run,
};

fn run(field: &mut Field<'_>) {
    let mut seed = [0; 32];
    seed.fill_with(|| u8::try_from(field.numbers.below(256)).unwrap());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    while field.goes_on() {
        let are_linked = field.numbers.once_in(2);
        let guests = tree::guests(are_linked).new_tree(&mut runner).unwrap();
        let place = field.place();
        check_everything(&guests.current(), &place, are_linked);
        fs::remove_dir_all(&place).unwrap();
        field.tried("random guests", guests.current().len() as u64);
    }
}
