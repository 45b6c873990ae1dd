//! What `vserver` costs beside what does something alike: starting guests beside `runc run` of the same
//! root, cloning one beside `cp`, a package manager in a guest that shares its files beside one that has its own,
//! and what a monitor holds in memory. Ratios are of one run.
//!
//! | file | what it measures |
//! | --- | --- |
//! | [`host`] | a configuration, guests and bundles in one directory, gone afterwards |
//! | [`start`] | from the command to init's first instruction; many at once; a monitor's memory |
//! | [`clone`] | a clone, with and without a store |
//! | [`package`] | a package of many files, installed where files are shared |
//! | [`userland`] | real guests |
//!
//! Needs root, `runc`, a C compiler, debootstrap and apt: `cargo bench --bench guests`. Nothing is asserted.

mod clone;
mod host;
mod package;
#[path = "../support/place.rs"]
mod place;
#[path = "../support/rows.rs"]
mod rows;
mod start;
#[path = "../support/userland.rs"]
mod userland;

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use rows::Rows;

fn main() -> Result<()> {
    // Cargo passes this to benchmarks, and not when it runs them as tests.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let rounds = number("VHASHIFY_BENCH_ROUNDS", 15)?;
    let rows = Rows::from_environment();
    if rows.has("start") {
        start::one(rounds)?;
    }
    if rows.has("many") {
        start::many(number("VHASHIFY_BENCH_STARTS", 100)?)?;
    }
    if rows.has("clone") {
        clone::beside_cp(rounds.min(3))?;
    }
    if rows.has("package") {
        package::beside_private(rounds.min(7))?;
    }
    Ok(())
}

fn number(variable: &str, otherwise: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(otherwise),
    }
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Prints a figure: the median of some times, the least and the most, and its ratio to another's.
fn show(what: &str, times: &mut [Duration], peer: Option<Duration>) -> Result<Duration> {
    times.sort();
    let (least, most) = (times[0], times[times.len() - 1]);
    let median = times[times.len() / 2];
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let ratio = peer.map_or(String::new(), |peer| {
        format!("  {:.2} of it", median.as_secs_f64() / peer.as_secs_f64())
    });
    say(&format!(
        "{what:<58} {:>9.1} ms  ({:.1} to {:.1}){ratio}",
        milliseconds(median),
        milliseconds(least),
        milliseconds(most)
    ))?;
    Ok(median)
}
