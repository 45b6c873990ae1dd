//! `vserver`: what was typed (`args`), what is done for it (`command`).

mod args;
mod command;
mod many;
mod method;

use std::process::ExitCode;

use clap::Parser;

use crate::lifecycle::monitor;

/// Parses the arguments of the process and does what they say.
#[must_use]
pub fn vserver() -> ExitCode {
    // Before anything else is set up: a monitor is to stay small.
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let called = std::path::Path::new(&called)
        .file_name()
        .unwrap_or_default();
    if many::NAMES.iter().any(|name| called == *name) {
        return many::run(called.to_os_string(), arguments);
    }
    match arguments.next() {
        Some(first) if first == monitor::WATCH => {
            return monitor::watch(&arguments.collect::<Vec<_>>());
        }
        Some(first) if first == monitor::MAKE => return monitor::make(),
        Some(first) if many::NAMES.iter().any(|name| first == *name) => {
            return many::run(first, arguments);
        }
        _ => {}
    }
    command::run(&args::Arguments::parse())
}
