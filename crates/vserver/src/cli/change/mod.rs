//! The commands that change a running guest: `vlimit`, `vsched` and `vattribute`. Each is this program
//! under that name, or `vserver THAT-NAME …`.

mod vattribute;
mod vlimit;
mod vsched;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use thiserror::Error;
use vhashify_config::parse_limit;

use super::command::{FAILED, status_of};
use super::output::{complain, start_tracing};
use crate::lifecycle::LifecycleError;

/// The names under which these commands are run.
pub const NAMES: [&str; 3] = ["vattribute", "vlimit", "vsched"];

const DONE: u8 = 0;
const USAGE: u8 = 2;

/// Change a guest that runs.
#[derive(Debug, Parser)]
#[command(name = "vserver", version, max_term_width = 80)]
struct Arguments {
    #[command(subcommand)]
    command: Change,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Show or change the limits of a running guest
    ///
    /// What is changed holds until the guest stops; its next start begins with
    /// what its configuration says. Values are numbers, with K, M or G (of 1024)
    /// or k or m (of 1000) behind them, or inf for no limit.
    #[command(after_help = vlimit::EXAMPLES)]
    Vlimit(Box<vlimit::Vlimit>),
    /// Change the processors' time of a running guest
    ///
    /// The token bucket of util-vserver is mapped to a weight, a quota, a period
    /// and a burst; --weight, --quota, --period and --burst set these themselves.
    /// Values that are not given stay as they are.
    #[command(after_help = vsched::EXAMPLES)]
    Vsched(Box<vsched::Vsched>),
    /// Show the attributes of a running guest
    ///
    /// A stock kernel lets nobody change the capabilities of a process that runs,
    /// and has no context capabilities or flags: what --set would have to change
    /// is refused by name.
    Vattribute(Box<vattribute::Vattribute>),
}

#[derive(Debug, Args)]
struct Guest {
    /// The guest, by name or context number
    #[arg(short = 'c', long, value_name = "GUEST")]
    xid: String,
}

/// A limit as it was typed: a number, or none.
#[derive(Debug, Clone, Copy)]
struct Value(Option<u64>);

/// A limit that is none.
#[derive(Debug, Error)]
#[error("write a number, with K, M or G if you like, or inf")]
struct NotLimit;

fn limit(text: &str) -> Result<Value, NotLimit> {
    parse_limit(text).map(Value).ok_or(NotLimit)
}

/// Why a command ends without having done its work.
enum Failure {
    /// The arguments mean nothing.
    Usage(String),
    /// It cannot be done.
    Impossible(String),
    Lifecycle(LifecycleError),
}

impl<E: Into<LifecycleError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Lifecycle(error.into())
    }
}

/// Runs the command `name`.
pub fn run(name: OsString, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let typed = [OsString::from("vserver"), name];
    let command = Arguments::parse_from(typed.into_iter().chain(arguments)).command;
    let common = match &command {
        Change::Vlimit(typed) => &typed.common,
        Change::Vsched(typed) => &typed.common,
        Change::Vattribute(typed) => &typed.common,
    };
    start_tracing(common);
    let done = if rustix::process::geteuid().is_root() {
        match &command {
            Change::Vlimit(typed) => vlimit::vlimit(typed),
            Change::Vsched(typed) => vsched::vsched(typed),
            Change::Vattribute(typed) => vattribute::vattribute(typed),
        }
    } else {
        Err(Failure::Impossible(
            "only root can do that; run it as root".to_owned(),
        ))
    };
    let (line, status) = match done {
        Ok(()) => return ExitCode::from(DONE),
        Err(Failure::Usage(line)) => (line, USAGE),
        Err(Failure::Impossible(line)) => (line, FAILED),
        Err(Failure::Lifecycle(error)) => (error.to_string(), status_of(&error)),
    };
    complain(&line);
    ExitCode::from(status)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_flag_table_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal_of_80_columns() {
        let mut command = super::Arguments::command();
        command.build();
        for name in super::NAMES {
            let sub = command.find_subcommand_mut(name).unwrap();
            *sub = std::mem::take(sub).term_width(80);
            let help = sub.render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
        }
    }
}
