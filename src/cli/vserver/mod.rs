//! `vserver`: what was typed (`args`), what is done for it (`command`).

mod args;
mod command;
mod method;

use std::process::ExitCode;

use clap::Parser;

use crate::lifecycle::monitor;

/// Parses the arguments of the process and does what they say.
#[must_use]
pub fn vserver() -> ExitCode {
    // Before anything else is set up: a monitor is to stay small.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == monitor::WATCH => {
            return monitor::watch(&arguments.collect::<Vec<_>>());
        }
        Some(first) if first == monitor::MAKE => return monitor::make(),
        _ => {}
    }
    command::run(&args::Arguments::parse())
}
