//! The command line: what was typed (`args`), what it means (`selection`), what is shown.
//!
//! ```text
//! args ─▶ selection ─▶ the library ─▶ output ─▶ exit status
//!                        └─ progress
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
mod output;
mod progress;
mod selection;

use std::process::ExitCode;

use clap::Parser;

pub use args::Arguments;
pub use command::status;
pub use selection::raise_descriptor_limit;

/// Parses the arguments of the process and does what they say.
#[must_use]
pub fn vhashify() -> ExitCode {
    command::run(&Arguments::parse())
}
