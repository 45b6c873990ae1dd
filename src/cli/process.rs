//! What the process needs before a command runs: the log, privileges, descriptors, threads.

use std::io::{self, IsTerminal};
use std::num::NonZero;
use std::path::Path;

use clap::ColorChoice;
use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::Level;
use vhashify_sys::call_error::Call as _;

use super::args::{Common, How};
use super::failure::Failure;
use crate::Error;

/// Sends what the libraries log to standard error, as much of it as was asked for.
pub fn start_tracing(common: &Common) {
    let level = match common.verbose {
        0 if common.quiet => Level::ERROR,
        // A warning names a setting that has no effect: everybody has to see it.
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::TRACE,
    };
    let is_coloured = match common.color {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => io::stderr().is_terminal(),
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(is_coloured)
        .with_writer(io::stderr)
        .without_time()
        .with_target(common.verbose > 1)
        .init();
}

/// Makes sure that root runs it, raises the limit of descriptors, starts the threads, and ignores the signal of a
/// broken lease.
///
/// # Errors
/// [`Failure::Usage`] where somebody else runs it, or asks for too many threads; a failed system call.
pub fn prepare(how: &How) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Usage(
            "only root can keep owners and capabilities as they are; run it as root",
        ));
    }
    raise_descriptor_limit()?;
    let threads = how.jobs.map_or_else(processors, usize::from);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global();
    pool.map_err(|_| Failure::Usage("the threads cannot be started; try a smaller --jobs"))?;
    vhashify_sys::lease::ignore_break_signal();
    Ok(())
}

/// Count of processors that this process may use.
#[must_use]
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Lets this process have as many descriptors open as it may.
///
/// # Errors
/// What `setrlimit(2)` answers.
pub fn raise_descriptor_limit() -> Result<(), Error> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit).call("setrlimit", Path::new("RLIMIT_NOFILE"))?)
}
