//! The command line, one way from what was typed to the exit status.
//!
//! ```text
//! args ─▶ usage ──▶ process ──▶ command ─▶ selection ─▶ the library ─▶ output ─▶ print ─▶ exit status
//! typed   do they   root, log,  one file   which guests,     │         as text   where
//!         go         limits,    each       which stores      └─ progress         to
//!         together  threads
//! ```
//!
//! | status | meaning |
//! | --- | --- |
//! | 0 | all done |
//! | 1 | finished, but some files failed, each named; or the result could not be printed |
//! | 2 | usage or configuration; nothing was changed |
//! | 3 | refused: nothing can be protected, or the store is busy; nothing was changed |

pub mod args;
mod command;
mod failure;
mod output;
mod print;
mod process;
mod progress;
mod selection;
mod usage;

use std::process::ExitCode;

use clap::Parser;

pub use args::Arguments;
pub use process::raise_descriptor_limit;

use progress::Bar;

/// Parses the arguments of the process and does what they say.
#[must_use]
pub fn vhashify() -> ExitCode {
    ExitCode::from(status(&Arguments::parse()))
}

/// Does what the arguments say, and gives the exit status as a number.
#[must_use]
pub fn status(arguments: &Arguments) -> u8 {
    process::start_tracing(&arguments.common);
    let bar = Bar::new(&arguments.common);
    let done = usage::check(arguments)
        .and_then(|()| process::prepare(&arguments.run.how))
        .and_then(|()| command::carry_out(arguments, &bar));
    bar.clear();
    done.unwrap_or_else(|failure| {
        print::say(&failure.to_string());
        failure.status()
    })
}
