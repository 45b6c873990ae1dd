//! vhashify beside the common tools that link identical files: the table of what is to be reached, with
//! this machine's figures.
//!
//! | file | what it is for |
//! | --- | --- |
//! | [`tools`] | what is run, as an administrator would type it |
//! | [`limits`] | the least that any tool has to do, done by this program itself |
//! | [`place`] | the filesystem that all of it happens on |
//! | [`userland`], [`guests`], [`generated`] | real guests, which differ a little; many small files |
//! | [`measure`] | one command: seconds, processor time, memory |
//! | [`metadata`] | what a tool changed in the guests |
//! | [`real`], [`small`] | the rows of the table |
//! | [`results`], [`text`] | medians, ratios, goals; and as Markdown |
//!
//! In each round each installed tool gets a copy of the guests of its own, and the limits are measured
//! on the same copies. Rounds interleave the tools, each in another order, so that a machine that grows
//! slower meanwhile does so for all of them; ratios are taken round by round. Nothing is asserted.
//! `benches/README.md` tells the variables and the form of the results.
#![allow(clippy::cast_precision_loss)] // Bytes and files here are far below 2 to the 53rd.

mod generated;
mod guests;
mod limits;
mod measure;
mod metadata;
#[path = "../support/place.rs"]
mod place;
mod real;
mod results;
#[path = "../support/rows.rs"]
mod rows;
mod small;
mod text;
mod tools;
#[path = "../support/userland.rs"]
mod userland;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use place::{Workplace, target};
use results::{FORMAT, Machine, Results};
use rows::Rows;
use tools::{PEERS, Tool, VHASHIFY};

/// The rows that are measured on real guests.
const REAL: [&str; 6] = [
    "first-run",
    "dry-run",
    "nothing-new",
    "new-guest",
    "cold",
    "verify",
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(done) = limits::answer(&arguments) {
        return done;
    }
    // Cargo passes this to benchmarks, and not when it runs them as tests.
    if arguments.iter().any(|argument| argument == "--bench") {
        compare()?;
    }
    Ok(())
}

/// How much is measured.
pub struct Settings {
    /// Whether it is the full form.
    pub is_full: bool,
    /// Real guests.
    pub guests: usize,
    /// Rounds.
    pub rounds: usize,
    /// Files in the generated guests.
    pub files: usize,
    rows: Rows,
}

impl Settings {
    fn from_environment() -> Result<Self> {
        let is_full = std::env::var("VHASHIFY_BENCH").is_ok_and(|form| form == "full");
        let choose = |quick, full| if is_full { full } else { quick };
        Ok(Self {
            is_full,
            guests: number("VHASHIFY_BENCH_GUESTS", choose(6, 12))?.max(2),
            rounds: number("VHASHIFY_BENCH_ROUNDS", choose(3, 5))?.max(1),
            files: number("VHASHIFY_BENCH_FILES", choose(100_000, 1_000_000))?.max(1000),
            rows: Rows::from_environment(),
        })
    }

    /// Whether the row `id` is to be measured.
    #[must_use]
    pub fn wants(&self, id: &str) -> bool {
        self.rows.has(id)
    }
}

fn compare() -> Result<()> {
    let settings = Settings::from_environment()?;
    ensure!(
        rustix::process::geteuid().is_root(),
        "needs root: guests hold files of many owners"
    );
    ensure!(
        Path::new(measure::TIME).exists(),
        "needs {} for processor time and memory; `make bench` installs it",
        measure::TIME
    );
    let place = Workplace::new("peers")?;
    let (present, absent): (Vec<&Tool>, Vec<&Tool>) = PEERS
        .iter()
        .partition(|tool| tools::is_installed(tool.name));
    let tools: Vec<&Tool> = std::iter::once(&VHASHIFY).chain(present).collect();
    let mut results = Results {
        format: FORMAT,
        form: if settings.is_full { "full" } else { "quick" },
        machine: machine(place.path())?,
        absent: absent.iter().map(|tool| tool.name).collect(),
        rows: Vec::new(),
        growth: Vec::new(),
    };
    if REAL.iter().any(|id| settings.wants(id)) {
        results
            .rows
            .extend(real::measure(&settings, &tools, place.path())?);
    }
    if settings.wants("memory") || settings.wants("small-files") {
        results
            .rows
            .extend(small::finding(&settings, &tools, place.path())?);
    }
    if settings.wants("gc") {
        results
            .rows
            .push(small::collection(&settings, place.path())?);
    }
    if settings.wants("growth") {
        results.growth = small::growth(&settings, place.path())?;
    }
    // The text is the last thing to be seen, after any complaint of the removal.
    drop(place);
    let text = text::text(&results);
    let directory = target()?.join("bench");
    fs::write(
        directory.join("results.json"),
        serde_json::to_string_pretty(&results)?,
    )?;
    fs::write(directory.join("results.md"), &text)?;
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever closed the pipe has read what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn machine(place: &Path) -> Result<Machine> {
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kibibytes: f64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .context("/proc/meminfo has no MemTotal")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    // Their numbers stand in statfs(2).
    let filesystem = match rustix::fs::statfs(place)?.f_type {
        0xEF53 => "ext4",
        0x5846_5342 => "XFS",
        0x9123_683E => "Btrfs",
        0x0102_1994 => "tmpfs",
        _ => "another filesystem",
    };
    Ok(Machine {
        kernel: kernel.trim().to_owned(),
        processor: model.to_owned(),
        threads: std::thread::available_parallelism()?.get(),
        memory: kibibytes * 1024.0,
        filesystem,
    })
}

/// One line on standard error.
fn note(text: &str) {
    // Nobody is left to tell when standard error is gone.
    drop(writeln!(io::stderr(), "{text}"));
}

fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => text
            .replace('_', "")
            .parse()
            .with_context(|| format!("{variable}={text} is not a number")),
        Err(_) => Ok(default),
    }
}
