//! The invariants under fire, for as long as one likes: every attack in turn, on ext4, XFS and Btrfs
//! at once, each with its own check, and at the end one line for each invariant.
//!
//! `cargo test --test torture` takes two minutes; `make torture MINUTES=60` takes an hour, each time
//! with other numbers. Arguments choose attacks by parts of their names. In machines that have the
//! guard (`VHASHIFY_TEST_PROTECTION=lsm`) a guest tries every way to change shared files meanwhile.
//!
//! | file | attack |
//! | --- | --- |
//! | `writers` | processes write in every way while runs go on back to back |
//! | `readers` | every path is read again and again during runs |
//! | `kills` | SIGKILL at any moment |
//! | `faults` | SIGKILL or an error of the disk at a call chosen by name |
//! | `power` | the power is cut at any write |
//! | `crowd` | runs, `gc`, `verify`, `deunify` and an administrator's cleanup at once |
//! | `names` | a guest adds, removes and moves names between and during runs |
//! | `random` | random guests: all that can be shared is, and nothing changes |
//! | `swaps` | directories and files become links, FIFOs and devices |
//! | `damage` | the index is damaged, cut off, or of another day |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The table is what this program is for.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod attack;
mod crowd;
mod damage;
mod faults;
mod kills;
mod names;
mod power;
mod random;
mod readers;
mod swaps;
mod writers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use attack::{Attack, Field, Tried};
use vhashify_testkit::adversary::{self, Adversary};
use vhashify_testkit::filesystem::{Filesystem, Kind};
use vhashify_testkit::numbers::Numbers;
use vhashify_testkit::program::is_guarded;

const ATTACKS: &[Attack] = &[
    writers::ATTACK,
    readers::ATTACK,
    kills::ATTACK,
    faults::ATTACK,
    power::ATTACK,
    crowd::ATTACK,
    names::ATTACK,
    random::ATTACK,
    swaps::ATTACK,
    damage::ATTACK,
];

/// The name of all attacks together, for cargo-nextest.
const ALL: &str = "attacks";

/// How long the short form takes.
const SHORT: Duration = Duration::from_mins(2);

/// The longest that one attack lasts before the next one has its turn.
const LONGEST_TURN: Duration = Duration::from_secs(30);

const VARIABLE: &str = "VHASHIFY_TORTURE_MINUTES";

/// The numbers of a torture that failed, to do it again: as random as before, but for its races.
const SEED: &str = "VHASHIFY_TORTURE_SEED";

fn main() -> ExitCode {
    if let Some(place) = std::env::var_os(adversary::VARIABLE) {
        adversary::attack(Path::new(&place));
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_given = |option: &str| arguments.iter().any(|argument| argument == option);
    // As the ordinary test harness lists its tests: all attacks are one, since they share the time.
    if is_given("--list") {
        if !is_given("--ignored") {
            println!("{ALL}: test");
        }
        return ExitCode::SUCCESS;
    }
    // Options are those of this harness, which `cargo test -- …` hands to every test program.
    let parts: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-') && *argument != ALL)
        .collect();
    // With their numbers among all, so that one that is done again alone gets the same seed.
    let chosen: Vec<(u64, &Attack)> = (0..)
        .zip(ATTACKS)
        .filter(|(_, attack)| {
            parts.is_empty() || parts.iter().any(|part| attack.name.contains(*part))
        })
        .collect();
    if chosen.is_empty() {
        return ExitCode::SUCCESS;
    }
    let minutes = std::env::var(VARIABLE).ok().map(|minutes| {
        let minutes = minutes.parse::<f64>();
        minutes.expect("VHASHIFY_TORTURE_MINUTES is a number of minutes")
    });
    let time = minutes.map_or(SHORT, |minutes| Duration::from_secs_f64(minutes * 60.0));
    let seed = std::env::var(SEED).ok().map(|seed| {
        let seed = seed.parse::<u64>();
        seed.expect("VHASHIFY_TORTURE_SEED is a number")
    });
    let seed = seed.unwrap_or_else(|| match minutes {
        // The short form does the same each time, as far as its attacks are not races.
        None => 1,
        Some(_) => SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| since.as_secs()),
    });
    println!("{} s with the numbers of {seed}", time.as_secs());

    let tried = Tried::default();
    // That they would see a loss need not be seen once more where the guard is tried.
    let writes = |(_, attack): &(u64, &Attack)| attack.name == writers::ATTACK.name;
    if !is_guarded() && chosen.iter().any(writes) {
        without_leases(&tried);
    }
    let over = Instant::now() + time;
    std::thread::scope(|scope| {
        for kind in Kind::ALL {
            let (chosen, tried) = (&chosen, &tried);
            scope.spawn(move || take_turns(kind, chosen, time, over, seed, tried));
        }
    });
    print!("{}", tried.table());
    if tried.is_incomplete() {
        eprintln!("FAILED: something was not tried at all");
    }
    if tried.failures() == 0 && !tried.is_incomplete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Every attack on one kind of filesystem, again and again until the time is over.
fn take_turns(
    kind: Kind,
    attacks: &[(u64, &Attack)],
    time: Duration,
    over: Instant,
    seed: u64,
    tried: &Tried,
) {
    let turn = (time / u32::try_from(attacks.len()).unwrap()).min(LONGEST_TURN);
    for round in 0.. {
        for &(number, attack) in attacks {
            let left = over.saturating_duration_since(Instant::now());
            // The first round is whole, whatever it takes.
            if round > 0 && left < turn / 2 {
                return;
            }
            let turn = if round == 0 { turn } else { turn.min(left) };
            let filesystem = Filesystem::new(kind);
            let mut field = Field {
                filesystem: &filesystem,
                numbers: Numbers::new(seed + round * 1000 + number),
                turn,
                deadline: OnceLock::new(),
                tried,
                attack,
            };
            let attacked = catch_unwind(AssertUnwindSafe(|| {
                let adversary = is_guarded().then(|| {
                    let this = std::env::current_exe().unwrap();
                    Adversary::start(&this, &[], filesystem.path())
                });
                (attack.run)(&mut field);
                if let Some(adversary) = adversary {
                    tried.add(&[4], "attempts refused", adversary.stop());
                }
            }));
            if attacked.is_err() {
                eprintln!(
                    "FAILED: {} on {kind:?}, round {round} of seed {seed}",
                    attack.name
                );
                tried.failed(attack);
            }
        }
    }
}

/// The writers' attack would see a lost write: where leases are left out, it does.
fn without_leases(tried: &Tried) {
    let filesystem = Filesystem::new(Kind::Ext4);
    let mut numbers = Numbers::new(1);
    for _ in 0..10 {
        let time = Duration::from_secs(5);
        let until = Instant::now() + time;
        let writes = writers::during_runs(&filesystem, &mut numbers, until, "lease:1:omit");
        if writes.lost > 0 {
            println!(
                "without leases {} of {} writes were lost, so that a loss would be seen",
                writes.lost, writes.made
            );
            return;
        }
    }
    eprintln!("FAILED: no write was lost, though nothing held the writers back");
    tried.failed(&writers::ATTACK);
}
