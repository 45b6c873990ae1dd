//! SIGKILL at any moment of a run or a `deunify`, and the run that puts it right.

use std::time::Duration;

use vhashify_testkit::moments::{
    assert_recovered, at_any_moment, check_objects, equal_guests, snapshots,
};
use vhashify_testkit::program::{Host, spawn};
use vhashify_testkit::snapshot::check_store;

use crate::attack::{Attack, Field, scaled};

pub const ATTACK: Attack = Attack {
    name: "inv6_kills",
    invariants: &[1, 2, 3, 6, 7],
    run,
};

/// Kills before a run is let through.
const IN_A_ROW: u64 = 20;

fn run(field: &mut Field<'_>) {
    let host = field.host(3);
    equal_guests(&host, scaled(150));
    let before = snapshots(&host);
    while field.goes_on() {
        for _ in 0..scaled(IN_A_ROW) {
            kill(&host, field);
            for (before, now) in before.iter().zip(snapshots(&host)) {
                at_any_moment(before).assert_same(&at_any_moment(&now), "after SIGKILL");
            }
            check_objects(&host.store());
        }
        host.run(&[]);
        assert_recovered(&before, &host, "after recovery");
        check_store(&host.store());
        host.call(["verify", "--deep"]);
    }
    for guest in 0..host.guests.len() {
        host.deunify(guest, &[]);
    }
    host.call(["gc"]);
    assert!(check_store(&host.store()).is_empty());
}

fn kill(host: &Host, field: &mut Field<'_>) {
    let mut command = if field.numbers.once_in(3) {
        let guest = field.numbers.one_of(&host.guests).clone();
        host.command([
            "deunify".into(),
            "--manually".into(),
            guest.into_os_string(),
        ])
    } else {
        host.run_command(&[])
    };
    let mut run = spawn(&mut command);
    std::thread::sleep(Duration::from_micros(field.numbers.below(150_000)));
    run.kill().unwrap();
    let is_killed = !run.wait().unwrap().success();
    field.tried("kills", u64::from(is_killed));
}
