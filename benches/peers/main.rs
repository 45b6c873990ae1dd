//! vhashify beside the common tools that link identical files, on real guests.
//!
//! | file | what it is for |
//! | --- | --- |
//! | [`tools`] | what is run, as an administrator would type it |
//! | [`guests`] | the place for all of it, and real guests that differ a little |
//! | [`measure`] | one command: seconds, processor time, memory |
//! | [`findings`] | tables, ratios, goals |
//!
//! In each round each installed tool gets a copy of the guests of its own and does three things to
//! it: a dry run, the first run with links, and a run with nothing new. Before that, the two limits
//! are taken on the same copy, which also brings all of it into the page cache: looking at every
//! inode, and reading and hashing every byte. Rounds interleave the tools, each in another order,
//! so that a machine that grows slower meanwhile does so for all of them; ratios are taken round by
//! round. Nothing is asserted: it prints.
//!
//! `VHASHIFY_BENCH_GUESTS` is the number of guests (6), `VHASHIFY_BENCH_ROUNDS` that of rounds (3),
//! `VHASHIFY_BENCH_PLACE` a directory of another filesystem to do it on.
#![allow(clippy::cast_precision_loss)] // Bytes and files here are far below 2 to the 53rd.

mod findings;
mod guests;
mod measure;
mod tools;

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use findings::{Account, Findings, Limit};
use guests::{Extent, Workplace};
use measure::{Fresh, Measure};
use tools::{FIND, HASH, PEERS, READ_AND_HASH, Tool, VHASHIFY};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [first, guests] if first == READ_AND_HASH => measure::read_and_hash(Path::new(guests)),
        // Cargo passes this to benchmarks, and not when it runs them as tests.
        all if all.iter().any(|argument| argument == "--bench") => compare(),
        _ => Ok(()),
    }
}

fn compare() -> Result<()> {
    let guests = number("VHASHIFY_BENCH_GUESTS", 6)?.max(2);
    let rounds = number("VHASHIFY_BENCH_ROUNDS", 3)?.max(1);
    ensure!(
        rustix::process::geteuid().is_root(),
        "needs root: guests hold files of many owners"
    );
    ensure!(
        Path::new(measure::TIME).exists(),
        "needs {} for processor time and memory; `make bench` installs it",
        measure::TIME
    );
    let place = Workplace::new()?;
    let pristine = place.path().join("pristine");
    guests::make(&pristine, guests)?;
    let extent = Extent::of(&pristine)?;
    let filesystem = rustix::fs::statvfs(place.path())?;
    ensure!(
        (filesystem.f_bavail * filesystem.f_frsize) as f64 > 1.1 * extent.allocated,
        "{} has no room for a copy of {guests} guests; set VHASHIFY_BENCH_GUESTS to fewer",
        place.path().display()
    );

    let (present, absent): (Vec<&Tool>, Vec<&Tool>) =
        PEERS.iter().partition(|tool| tool.is_installed());
    let tools: Vec<&Tool> = std::iter::once(&VHASHIFY).chain(present).collect();
    let mut findings = Findings {
        accounts: tools.iter().map(|tool| Account::new(tool.name)).collect(),
        find: Limit::new("find -printf"),
        hash: Limit::new("read and hash"),
        absent: absent.iter().map(|tool| tool.name).collect(),
        fixed: Vec::new(),
        extent,
        guests,
        rounds,
    };
    for round in 0..rounds {
        for turn in 0..tools.len() {
            let number = (turn + round) % tools.len();
            let tool = tools[number];
            let fresh = Fresh::copy(place.path(), &pristine)?;
            for (limit, command) in [(&mut findings.find, FIND), (&mut findings.hash, HASH)] {
                limit.measures.push(fresh.measure(command, round)?.0);
            }
            let seconds = visit(tool, &mut findings.accounts[number], &fresh, round)?;
            // A run over many guests takes long, and one that is killed should not be for nothing.
            note(&format!(
                "Round {} of {rounds}: {:<9} dry run {:.2} s, first {:.2} s, nothing new {:.2} s",
                round + 1,
                tool.name,
                seconds[0],
                seconds[1],
                seconds[2]
            ));
        }
        findings.fixed.push(on_nothing(place.path(), round)?);
    }
    // The text is the last thing to be seen, after any complaint of the removal.
    drop(place);
    match io::stdout().write_all(findings.text().as_bytes()) {
        // Whoever closed the pipe has read what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Lets one tool do its three runs on a copy of its own; how long each took.
fn visit(tool: &Tool, account: &mut Account, fresh: &Fresh, round: usize) -> Result<[f64; 3]> {
    let before = Extent::of(&fresh.guests)?;
    let (dry, _) = fresh.measure(tool.dry_run, round)?;
    account.dry.push(dry);
    let (first, first_told) = fresh.measure(tool.run, round)?;
    account.first.push(first);
    account.freed = before.allocated - Extent::of(&fresh.guests)?.allocated;
    let (nothing, nothing_told) = fresh.measure(tool.run, round)?;
    account.nothing.push(nothing);
    if tool.name == VHASHIFY.name {
        account
            .first_told
            .push(serde_json::from_slice(&first_told)?);
        account
            .nothing_told
            .push(serde_json::from_slice(&nothing_told)?);
    }
    Ok([dry.seconds, first.seconds, nothing.seconds])
}

/// A run on two empty guests: what is measured here does not grow with the files.
fn on_nothing(place: &Path, round: usize) -> Result<Measure> {
    let empty = place.join("empty");
    for guest in ["00", "01"] {
        std::fs::create_dir_all(empty.join(guest))?;
    }
    let fresh = Fresh::copy(place, &empty)?;
    Ok(fresh.measure(VHASHIFY.run, round)?.0)
}

/// One line on standard error.
fn note(text: &str) {
    // Nobody is left to tell when standard error is gone.
    drop(writeln!(io::stderr(), "{text}"));
}

fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{variable}={text} is not a number")),
        Err(_) => Ok(default),
    }
}
