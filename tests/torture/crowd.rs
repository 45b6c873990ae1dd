//! Runs, collections, verifications, `deunify` and an administrator's own cleanup, all at once.

use std::process::Command;

use vhashify_testkit::moments::{assert_same, equal_guests, snapshots};
use vhashify_testkit::program::output;
use vhashify_testkit::snapshot::check_store;

use crate::attack::{Attack, Field, scaled};

pub const ATTACK: Attack = Attack {
    name: "inv7_crowd",
    invariants: &[1, 2, 3, 7],
    run,
};

/// As administrators have it in cron.
const CLEANUP: &str = "find \"$0\" -type f -links 1 -print0 | xargs -0 -r rm -f";

fn run(field: &mut Field<'_>) {
    let host = field.host(3);
    equal_guests(&host, scaled(60));
    let before = snapshots(&host);
    let field = &*field;
    std::thread::scope(|scope| {
        let again = |what: &'static str, work: &(dyn Fn(usize) + Sync)| {
            let mut round = 0;
            while field.goes_on() {
                work(round);
                round += 1;
            }
            field.tried(what, round as u64);
        };
        let host = &host;
        for _ in 0..2 {
            scope.spawn(move || again("runs", &|_| drop(host.run(&[]))));
        }
        scope.spawn(move || {
            again("runs", &|round| {
                let commands = [&["gc"][..], &["verify", "--deep"], &["report"]];
                host.call(commands[round % commands.len()]);
            });
        });
        scope.spawn(move || {
            again("runs", &|round| {
                // Nothing but whole guests, so that the objects lose all of their links.
                host.deunify(round % host.guests.len(), &[]);
            });
        });
        scope.spawn(move || {
            again("cleanups", &|_| {
                // Whatever vanishes under its hands is no failure of it.
                output(Command::new("sh").args(["-c", CLEANUP]).arg(host.store()));
            });
        });
    });
    host.run(&[]);
    assert_same(&before, &host, "after all of them");
    check_store(&host.store());
    host.call(["verify", "--deep"]);
}
