//! `vserver`: its arguments, and one function for each command.
//!
//! | file | commands |
//! | --- | --- |
//! | `args`, `command`, `status`, `method`, `unify` | of one guest: `vserver NAME start` and the like |
//! | `many` | of many guests: `vserver-stat`, `vps`, `vkill`, `start-vservers`, `stop-vservers` |
//! | `change` | of a guest that runs: `vlimit`, `vsched`, `vattribute` |
//! | `broker` | of containers that others start |
//! | `output` | how all of them speak |

mod args;
mod broker;
mod change;
mod command;
mod many;
mod method;
mod output;
mod status;
mod unify;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::Parser;

use crate::lifecycle::inherited::UMASK;
use crate::lifecycle::{enter, monitor, order};

/// Parses the arguments of this process and runs the command.
#[must_use]
pub fn vserver() -> ExitCode {
    // What is built, and what becomes a process of a guest, has the usual one, whoever types the command.
    rustix::process::umask(UMASK);
    // Before anything else is set up: a monitor is to stay small.
    let mut arguments = std::env::args_os();
    let called = arguments.next().unwrap_or_default();
    let called = std::path::Path::new(&called)
        .file_name()
        .unwrap_or_default();
    if let Some(run) = of_tool(called) {
        return run(called.to_os_string(), &mut arguments);
    }
    let mut arguments: Vec<OsString> = arguments.collect();
    match arguments.split_first() {
        Some((first, rest)) if first == order::WATCH => return monitor::watch(rest),
        Some((first, _)) if first == order::MAKE => return monitor::make(),
        Some((first, _)) if first == enter::ENTER => return enter::inside(),
        _ => {}
    }
    if let Some(place) = first_word(&arguments) {
        let run = if broker::is_meant(&arguments[place], arguments.get(place + 1)) {
            Some((|name, arguments| broker::run(name, arguments)) as Tool)
        } else {
            of_tool(&arguments[place])
        };
        if let Some(run) = run {
            let name = arguments.remove(place);
            return run(name, &mut arguments.into_iter());
        }
    }
    command::run(&args::Arguments::parse())
}

/// Runs a command that is not of one guest: its name, then its arguments.
type Tool = fn(OsString, &mut dyn Iterator<Item = OsString>) -> ExitCode;

fn of_tool(name: &OsStr) -> Option<Tool> {
    if many::NAMES.iter().any(|known| name == *known) {
        return Some(|name, arguments| many::run(name, arguments));
    }
    if change::NAMES.iter().any(|known| name == *known) {
        return Some(|name, arguments| change::run(name, arguments));
    }
    None
}

/// Where the first word stands that is no option of every command.
fn first_word(arguments: &[OsString]) -> Option<usize> {
    let mut place = 0;
    loop {
        let text = arguments.get(place)?.as_encoded_bytes();
        place += match text {
            b"--config-dir" | b"--state-dir" => 2,
            [b'-', ..] => 1,
            _ => return Some(place),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::first_word;

    #[test]
    fn options_of_every_command_may_stand_before_its_name() {
        for (typed, place) in [
            (&["vps"][..], Some(0)),
            (&["--config-dir", "web", "vlimit", "-a"], Some(2)),
            (&["--config-dir=web", "-v", "--silent", "web"], Some(3)),
            (&["--state-dir", "x"], None),
            (&["--help"], None),
        ] {
            let typed: Vec<_> = typed.iter().map(std::ffi::OsString::from).collect();
            assert_eq!(first_word(&typed), place, "{typed:?}");
        }
    }
}
