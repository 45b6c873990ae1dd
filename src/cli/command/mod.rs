//! Does what was asked for and prints what came of it.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use vhashify_sys::call_error::{advice, reason};
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::Timestamp;

#[cfg(feature = "guard")]
mod guard;

use super::args::{Arguments, Command, Common, Format, Protect, RunArguments};
use super::output::Text;
use super::progress::Bar;
use super::selection;
use crate::Error;
use crate::identity::Mtime;
use crate::index::Index;
use crate::outcome::{FileError, Progress, RunReport};
#[cfg(feature = "guard")]
use crate::protect::guard::Permit;
use crate::protect::{MarkOnly, Mode};
use crate::report::page::{Origin, page};
use crate::report::{StoreReport, store_report};
use crate::store::{GcReport, Store, StoreLock, Wait, collect};
use crate::unify::{DeunifyOptions, Options, Workers, deunify, unify};
use crate::verify::{Check, VerifyReport, verify};

const DONE: u8 = 0;
const SOME_FAILED: u8 = 1;
const USAGE: u8 = 2;
const REFUSED: u8 = 3;

/// Runs the command and gives the exit status.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    ExitCode::from(status(arguments))
}

/// Does what the arguments say, and gives the exit status as a number.
#[must_use]
pub fn status(arguments: &Arguments) -> u8 {
    let common = &arguments.common;
    start_tracing(common);
    let bar = Bar::new(common);
    let prepared = prepare(arguments);
    // Without one, the guard refuses leases on objects to this command as to everybody.
    #[cfg(feature = "guard")]
    let prepared = prepared.and_then(|()| Ok(Permit::acquire().map_err(Error::from)?));
    let done = prepared.and_then(|_permit| match &arguments.command {
        None => unification(common, &arguments.run, &bar),
        Some(Command::Gc { dry_run }) => collection(common, *dry_run, &bar),
        Some(Command::Verify { deep, repair }) => verification(
            common,
            Check {
                deep: *deep,
                repair: *repair,
            },
            &bar,
        ),
        Some(Command::Deunify {
            manually,
            dry_run,
            guest,
            paths,
        }) => {
            let selected = selection::one_guest(common, guest, *manually)?;
            let source = &selected.sources[0];
            let options = DeunifyOptions {
                dry_run: *dry_run,
                wait: wait(common),
            };
            let report = deunify(&selected.store, source, paths, options, &bar)?;
            bar.clear();
            Ok(print(common, &report, &report))
        }
        Some(Command::Report { output }) => reporting(common, output.as_deref(), &bar),
        #[cfg(feature = "guard")]
        Some(Command::Guard { command }) => guard::run(common, command),
    });
    bar.clear();
    done.unwrap_or_else(|failure| {
        say(&failure.to_string());
        failure.status()
    })
}

/// Why nothing was done.
#[derive(Debug)]
pub(super) enum Failure {
    Usage(&'static str),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(text) => out.write_str(text),
            Self::Error(error) => error.fmt(out),
        }
    }
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Self::Error(error) if error.is_refusal() => REFUSED,
            _ => USAGE,
        }
    }
}

fn prepare(arguments: &Arguments) -> Result<(), Failure> {
    let run = &arguments.run;
    let how = &run.how;
    let is_report = matches!(arguments.command, Some(Command::Report { .. }));
    if arguments.common.format == Format::Html && !is_report {
        return Err(Failure::Usage("--format html goes with report alone"));
    }
    if arguments.command.is_some() {
        let is_plain = run.guests.is_empty()
            && !(run.all || run.manually || how.dry_run || how.refresh || how.ignore_mtime)
            && run.exclude_from.is_none()
            && how.min_size == 0
            && how.protect == Protect::Auto;
        if !is_plain {
            return Err(Failure::Usage(
                "options of a run do not go with a command; put the command's own after its name",
            ));
        }
    } else if run.all && !run.guests.is_empty() {
        return Err(Failure::Usage("name guests or say --all, not both"));
    } else if !run.all && run.guests.is_empty() {
        return Err(Failure::Usage(
            "which guests? name them, or say --all (vhashify --help shows more)",
        ));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Usage(
            "only root can keep owners and capabilities as they are; run it as root",
        ));
    }
    selection::raise_descriptor_limit()?;
    let threads = how.jobs.map_or_else(processors, usize::from);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global();
    pool.map_err(|_| Failure::Usage("the threads cannot be started; try a smaller --jobs"))?;
    vhashify_sys::lease::ignore_break_signal();
    Ok(())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn wait(common: &Common) -> Wait {
    if common.no_wait {
        Wait::Never
    } else {
        Wait::Forever
    }
}

fn unification(common: &Common, run: &RunArguments, bar: &Bar) -> Result<u8, Failure> {
    let how = &run.how;
    let chosen = selection::for_run(common, run, bar)?;
    let options = Options {
        dry_run: how.dry_run,
        scope: chosen.scope,
        mtime: if how.ignore_mtime {
            Mtime::Ignored
        } else {
            Mtime::Kept
        },
        refresh: how.refresh,
        smallest: how.min_size,
        jobs: how
            .jobs
            .map_or_else(|| Workers::for_processors(processors()), usize::from),
        wait: wait(common),
        protect: match how.protect {
            Protect::Auto => Mode::Auto,
            Protect::Lsm => Mode::Lsm,
            Protect::Reflink => Mode::Reflink,
            Protect::Verity => Mode::Verity,
            Protect::None => Mode::None,
        },
    };
    let mut report = RunReport::default();
    for selected in chosen.selections {
        let part = unify(
            &selected.store,
            &selected.sources,
            &common.state_dir,
            &options,
            bar,
        )?;
        report.merge(part);
    }
    bar.clear();
    // Files that share only extents keep theirs.
    let shares_inodes = report.protection.iter().any(|&mode| mode != "reflink");
    if how.ignore_mtime && report.counts.files_unified > 0 && shares_inodes {
        bar.note("--ignore-mtime: unified files have the mtime of one of them");
    }
    Ok(print(common, &report, &report))
}

fn collection(common: &Common, dry_run: bool, bar: &Bar) -> Result<u8, Failure> {
    let mut report = GcReport {
        dry_run,
        ..GcReport::default()
    };
    for location in selection::stores(common)? {
        let (store, lock) = locked(common, &location, bar)?;
        report = report.merged(collect(&store, &lock, dry_run)?);
    }
    Ok(print(common, &report, &report))
}

fn verification(common: &Common, check: Check, bar: &Bar) -> Result<u8, Failure> {
    let mut report = VerifyReport::default();
    for location in selection::stores(common)? {
        let (mut store, lock) = locked(common, &location, bar)?;
        let has_index = Index::path(&common.state_dir, store.path()).exists();
        let index = if has_index || check.repair {
            Some(Index::open(&common.state_dir, &store, |warning| {
                bar.note(&warning);
            })?)
        } else {
            None
        };
        report = report.merged(verify(&mut store, &lock, index, check, &MarkOnly, bar)?);
    }
    bar.clear();
    Ok(print(common, &report, &report))
}

fn reporting(common: &Common, output: Option<&Path>, bar: &Bar) -> Result<u8, Failure> {
    #[derive(Serialize)]
    struct Stores<'a> {
        stores: &'a [StoreReport],
    }
    let seconds = Timestamp::now().seconds;
    let mut reports = Vec::new();
    for selected in selection::for_report(common, bar)? {
        let mut store = Store::open(&selected.store)?;
        let sources = &selected.sources;
        reports.push(store_report(&mut store, sources, &common.state_dir, bar)?);
    }
    bar.clear();
    let printed = match common.format {
        Format::Html => {
            let host = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
            let host = Shown::bytes(host.trim_ascii()).to_string();
            page(
                &reports,
                Origin {
                    host: &host,
                    seconds,
                },
            )
        }
        Format::Json | Format::Text => rendered(common, &reports, &Stores { stores: &reports }),
    };
    Ok(emit(&printed, &reports.errors(), output))
}

fn locked(
    common: &Common,
    location: &crate::guest::StoreLocation,
    bar: &Bar,
) -> Result<(Store, StoreLock), Error> {
    let store = Store::open(location)?;
    let lock = StoreLock::acquire(&store, wait(common), || {
        bar.note(&format!(
            "waiting for another run on {}",
            Shown::path(store.path())
        ));
    })?;
    Ok((store, lock))
}

/// Prints a result as it was asked for, and each failed file on standard error.
pub(super) fn print(common: &Common, text: &impl Text, json: &impl Serialize) -> u8 {
    emit(&rendered(common, text, json), &text.errors(), None)
}

/// A result as it was asked for; nothing where nothing but errors is to be said.
fn rendered(common: &Common, text: &impl Text, json: &impl Serialize) -> String {
    match common.format {
        Format::Json => serde_json::to_string_pretty(json).unwrap_or_default(),
        Format::Text if common.quiet => String::new(),
        // Only a report has a page, and it is not rendered here.
        Format::Text | Format::Html => text.text(common.verbose > 0),
    }
}

/// Writes a result to a file or to standard output, and each failed file on standard error.
fn emit(printed: &str, errors: &[&FileError], output: Option<&Path>) -> u8 {
    for error in errors {
        say(&format!("{}: {}", Shown::path(&error.path), error.reason));
    }
    let (written, place) = match output {
        Some(file) => (
            std::fs::write(file, format!("{printed}\n")),
            Shown::path(file).to_string(),
        ),
        None if printed.is_empty() => (Ok(()), String::new()),
        None => (
            writeln!(std::io::stdout(), "{printed}"),
            "standard output".to_owned(),
        ),
    };
    if let Err(error) = written
        // Whoever closed the pipe has read what it wanted.
        && error.kind() != ErrorKind::BrokenPipe
    {
        let (reason, advice) = (reason(&error), advice(&error));
        say(&format!(
            "the result cannot be written to {place}: {reason}{advice}"
        ));
        return SOME_FAILED;
    }
    if errors.is_empty() { DONE } else { SOME_FAILED }
}

/// One line on standard error.
fn say(line: &str) {
    // Nobody is left to tell when standard error is gone.
    drop(writeln!(std::io::stderr(), "vhashify: {line}"));
}

fn start_tracing(common: &Common) {
    use tracing::Level;
    let level = match common.verbose {
        0 if common.quiet => Level::ERROR,
        // A setting without effect is named, and not only to those who ask for more.
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::TRACE,
    };
    let is_coloured = match common.color {
        clap::ColorChoice::Always => true,
        clap::ColorChoice::Never => false,
        clap::ColorChoice::Auto => std::io::stderr().is_terminal(),
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(is_coloured)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(common.verbose > 1)
        .init();
}
