//! The commands that are about many guests: `vserver-stat`, `vps`, `vkill`, `start-vservers` and
//! `stop-vservers`. Each is this program under that name, or `vserver THAT-NAME …`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use vhashify_config::{ConfigTree, signal_number};
use vhashify_sys::pidfd::Process;

use super::args::Common;
use super::command::{FAILED, status_of};
use super::output::{complain, duration, say, start_tracing};
use crate::context::cgroup;
use crate::lifecycle::many::{Usage, start_order, usage};
use crate::lifecycle::observe::mend;
use crate::lifecycle::state::recorded_guests;
use crate::lifecycle::{GuestState, LifecycleError, StateDirectory, sealed};

/// The names under which these commands are run.
pub const NAMES: [&str; 5] = [
    "vserver-stat",
    "vps",
    "vkill",
    "start-vservers",
    "stop-vservers",
];

/// Look at, signal, start and stop many guests.
#[derive(Debug, Parser)]
#[command(name = "vserver", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Many,
}

#[derive(Debug, Subcommand)]
enum Many {
    /// Show what each running guest uses
    #[command(name = "vserver-stat")]
    Stat {
        #[command(flatten)]
        common: Common,
        /// How it is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// ps, with the guest of each process
    Vps {
        #[command(flatten)]
        common: Common,
        /// Options of ps
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTION"
        )]
        options: Vec<OsString>,
    },
    /// Send a signal to processes of a guest
    Vkill {
        #[command(flatten)]
        common: Common,
        /// The signal, by name or number
        #[arg(short, default_value = "TERM")]
        signal: String,
        /// The guest, by name or context number
        #[arg(long, value_name = "GUEST")]
        xid: String,
        /// Processes by the host's numbers, 1 for its init [default: all of the guest's]
        #[arg(value_name = "PID")]
        pids: Vec<i32>,
    },
    /// Start all guests with a mark, after those that they depend on
    StartVservers {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        which: Which,
    },
    /// Stop all guests with a mark, before those that they depend on
    StopVservers {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The mark: what stands in apps/init/mark
    #[arg(short, long, default_value = "default")]
    mark: String,
    /// All guests of the configuration, whatever their mark
    #[arg(long, conflicts_with = "mark")]
    all: bool,
    /// How many at once
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs: one object on standard output.
    Json,
}

/// Runs the command `name`.
pub fn run(name: OsString, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let typed = [OsString::from("vserver"), name]
        .into_iter()
        .chain(arguments);
    let command = Arguments::parse_from(typed).command;
    let (Many::Stat { common, .. }
    | Many::Vps { common, .. }
    | Many::Vkill { common, .. }
    | Many::StartVservers { common, .. }
    | Many::StopVservers { common, .. }) = &command;
    start_tracing(common);
    let done = match &command {
        Many::Stat { common, format } => stat(common, *format),
        Many::Vps { common, options } => ps(common, options),
        Many::Vkill {
            common,
            signal,
            xid,
            pids,
        } => kill(common, signal, xid, pids),
        Many::StartVservers { common, which } => start_or_stop(common, which, true),
        Many::StopVservers { common, which } => start_or_stop(common, which, false),
    };
    ExitCode::from(done.unwrap_or_else(|error| {
        complain(&error.to_string());
        status_of(&error)
    }))
}

fn stat(common: &Common, format: Format) -> Result<u8, LifecycleError> {
    #[derive(Serialize)]
    struct Guests<'a> {
        guests: &'a [Usage],
    }
    let all = usage(&recorded_guests(&common.state_dir))?;
    if format == Format::Json {
        let text = serde_json::to_string_pretty(&Guests { guests: &all });
        say(&text.unwrap_or_default());
        return Ok(0);
    }
    say("CTX    PROC      MEMORY         CPU      UPTIME  NAME");
    for guest in &all {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        say(&format!(
            "{:<6} {:>4} {:>11} {:>11} {:>11}  {}",
            guest.context,
            guest.processes,
            or_dash(guest.memory_bytes.map(vhashify::outcome::numbers::bytes)),
            or_dash(guest.cpu_nanoseconds.map(seconds)),
            duration(guest.uptime_seconds),
            guest.name
        ));
    }
    Ok(0)
}

/// Nanoseconds as seconds with two digits.
fn seconds(nanoseconds: u64) -> String {
    let hundredths = nanoseconds / 10_000_000;
    format!("{}.{:02} s", hundredths / 100, hundredths % 100)
}

/// Runs ps(1) with the guest's name before each line; the host's own processes have none.
fn ps(common: &Common, options: &[OsString]) -> Result<u8, LifecycleError> {
    let mut guests = BTreeMap::new();
    for state in recorded_guests(&common.state_dir) {
        if let GuestState::Running(running, _) = mend(&state)? {
            for pid in cgroup::processes(running.context) {
                guests.insert(pid, state.name().to_owned());
            }
        }
    }
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    }
    let output = command.args(options).stderr(Stdio::inherit()).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            complain(&format!(
                "ps cannot be run: {}",
                vhashify_sys::call_error::reason(&error)
            ));
            return Ok(FAILED);
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let width = guests.values().map(String::len).max().unwrap_or(0).max(5);
    let mut column = None;
    for (number, line) in text.lines().enumerate() {
        if number == 0 {
            column = line.split_whitespace().position(|word| word == "PID");
            say(&format!("{:<width$} {line}", "GUEST"));
            continue;
        }
        let pid = column.and_then(|column| line.split_whitespace().nth(column)?.parse().ok());
        let guest = pid.and_then(|pid: i32| guests.get(&pid));
        say(&format!(
            "{:<width$} {line}",
            guest.map_or("-", String::as_str)
        ));
    }
    Ok(output
        .status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(FAILED))
}

fn kill(common: &Common, signal: &str, guest: &str, pids: &[i32]) -> Result<u8, LifecycleError> {
    let Some(number) = signal_number(signal) else {
        complain(&format!(
            "{signal:?} is no signal; name one, as kill -l does"
        ));
        return Ok(2);
    };
    let mut found = None;
    for state in recorded_guests(&common.state_dir) {
        if let GuestState::Running(running, init) = mend(&state)?
            && (state.name() == guest || running.context.to_string() == guest)
        {
            found = Some((running.context, init));
        }
    }
    let Some((context, init)) = found else {
        let name = guest.to_owned();
        return Err(LifecycleError::NotRunning { name });
    };
    let own = cgroup::processes(context);
    let wanted: Vec<i32> = match pids {
        [] => own.iter().copied().collect(),
        some => some
            .iter()
            .map(|pid| if *pid == 1 { init.pid } else { *pid })
            .collect(),
    };
    let mut status = 0;
    for pid in wanted {
        if let Some(process) = Process::find(pid).filter(|_| own.contains(&pid)) {
            process.signal(number);
        } else {
            complain(&format!("{pid} is no process of {guest}"));
            status = FAILED;
        }
    }
    Ok(status)
}

/// Starts or stops guests group by group, those of a group at once.
fn start_or_stop(common: &Common, which: &Which, start: bool) -> Result<u8, LifecycleError> {
    let tree = ConfigTree::open(&common.config_dir)?;
    let (mut wanted, mut depends) = (BTreeSet::new(), BTreeMap::new());
    let mut status = 0;
    for name in tree.all_names()? {
        match tree.init_settings(&name) {
            Ok(init) => {
                let name = name.to_string_lossy().into_owned();
                if which.all || init.mark.as_deref() == Some(&which.mark) {
                    wanted.insert(name.clone());
                }
                depends.insert(name, init.depends);
            }
            Err(error) => {
                complain(&error.to_string());
                status = FAILED;
            }
        }
    }
    let mut groups = match start_order(&wanted, &depends) {
        Ok(groups) => groups,
        Err(circle) => {
            complain(&format!(
                "guests depend on one another in a circle: {}; change depends of one of them",
                circle.join(" → ")
            ));
            return Ok(2);
        }
    };
    if !start {
        groups.reverse();
        for group in &mut groups {
            group.retain(|name| wanted.contains(name));
        }
    }
    for group in groups {
        for part in group.chunks(which.jobs.into()) {
            let failed = all_at_once(common, part, start);
            if failed && start {
                // Guests that depend on them must not start without them.
                return Ok(FAILED);
            }
            status |= u8::from(failed);
        }
    }
    Ok(status)
}

/// Runs `vserver NAME start` or `stop` for each that is not so already. True when one failed.
fn all_at_once(common: &Common, names: &[String], start: bool) -> bool {
    let mut children = Vec::new();
    let mut has_failed = false;
    for name in names {
        let state = StateDirectory::new(&common.state_dir, name);
        let is_running = matches!(mend(&state), Ok(GuestState::Running(..)));
        if is_running == start {
            continue;
        }
        let mut command = Command::new(sealed::program_on_disk());
        let dirs: [(&str, &PathBuf); 2] = [
            ("--config-dir", &common.config_dir),
            ("--state-dir", &common.state_dir),
        ];
        for (option, directory) in dirs {
            command.arg(option).arg(directory);
        }
        command.args(common.silent.then_some("--silent"));
        command.arg(name).arg(if start { "start" } else { "stop" });
        match command.stdin(Stdio::null()).spawn() {
            Ok(child) => children.push(child),
            Err(error) => {
                complain(&format!(
                    "{name}: {}",
                    vhashify_sys::call_error::reason(&error)
                ));
                has_failed = true;
            }
        }
    }
    for mut child in children {
        has_failed |= !child.wait().is_ok_and(|status| status.success());
    }
    has_failed
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_flag_table_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn a_time_of_processors_has_two_digits() {
        assert_eq!(super::seconds(1_234_567_890), "1.23 s");
        assert_eq!(super::seconds(50_000_000), "0.05 s");
    }
}
