//! Does what was asked for, and says what came of it.

use std::ffi::OsStr;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use vhashify_config::{ConfigTree, GuestSettings};

use super::args::{Arguments, Chkconfig, Command, Common, Pkg};
use crate::context::cgroup;
use crate::lifecycle::build::{Import, delete, import};
use crate::lifecycle::distribution::{
    PackageAction, ServiceAction, package_command, service_command,
};
use crate::lifecycle::enter::{Entry, enter};
use crate::lifecycle::observe::mend;
use crate::lifecycle::start::start;
use crate::lifecycle::state::now;
use crate::lifecycle::stop::stop;
use crate::lifecycle::{Ended, GuestState, LifecycleError, Running, StateDirectory};

const DONE: u8 = 0;
pub const FAILED: u8 = 1;
const USAGE: u8 = 2;
const NOT_RUNNING: u8 = 3;

/// What a rescued guest runs until it is stopped.
const RESCUE: [&str; 2] = ["sleep", "infinity"];

/// Runs the command and gives the exit status.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    // vhashify sets up its own.
    if !matches!(
        arguments.command,
        Command::Hashify { .. } | Command::Unify { .. }
    ) {
        start_tracing(&arguments.common);
    }
    ExitCode::from(match carry_out(arguments) {
        Ok(status) => status,
        Err(error) => {
            complain(&error.to_string());
            status_of(&error)
        }
    })
}

/// Configuration that makes no sense is told from what could not be done.
pub fn status_of(error: &LifecycleError) -> u8 {
    match error {
        LifecycleError::NotRun { status, .. } => *status,
        LifecycleError::Config(_) | LifecycleError::Setting { .. } => USAGE,
        _ => FAILED,
    }
}

fn carry_out(arguments: &Arguments) -> Result<u8, LifecycleError> {
    let common = &arguments.common;
    let tree = ConfigTree::open(&common.config_dir)?;
    // Every command names a guest that is there, and nothing that its name leads elsewhere.
    let directory = tree.guest_directory(&arguments.name)?;
    let name = arguments.name.to_string_lossy();
    let state = StateDirectory::new(&common.state_dir, &name);
    if !directory.is_dir() && !is_made_by(&arguments.command) {
        let (name, path) = (arguments.name.clone(), directory);
        return Err(vhashify_config::ConfigError::UnknownGuest { name, path }.into());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(LifecycleError::Start {
            name: name.into_owned(),
            reason: "only root can do that; run it as root".to_owned(),
        });
    }
    let settings = || tree.settings(OsStr::new(&arguments.name));
    match &arguments.command {
        Command::Build(build) => {
            crate::lifecycle::build::build(&tree, &state, &build.plan())?;
            if !common.silent {
                say(&format!("{} is built", state.name()));
            }
            Ok(DONE)
        }
        Command::Delete => remove(&tree, &settings()?, &state, common),
        Command::Hashify { options } => Ok(hashify(arguments, options)),
        Command::Unify { options } => Ok(unify(arguments, options)),
        Command::Start { rescue } => begin(&tree, &settings()?, &state, *rescue, common),
        Command::Stop => end(&settings()?, &state, common),
        Command::Restart => {
            let settings = settings()?;
            if let GuestState::Running(..) = mend(&state)? {
                end(&settings, &state, common)?;
            }
            begin(&tree, &settings, &state, false, common)
        }
        Command::Condrestart => {
            let settings = settings()?;
            let GuestState::Running(..) = mend(&state)? else {
                return Ok(DONE);
            };
            end(&settings, &state, common)?;
            begin(&tree, &settings, &state, false, common)
        }
        Command::Running => Ok(match mend(&state)? {
            GuestState::Running(..) => DONE,
            GuestState::Starting(_) | GuestState::Stopped(_) => FAILED,
        }),
        Command::Status => status(&state),
        Command::Enter => {
            let shell = settings()?.shell;
            let (command, user) = (Vec::new(), None);
            let entry = Entry {
                command,
                user,
                shell,
            };
            enter(&state, &entry)
        }
        Command::Exec { command } => enter(
            &state,
            &Entry {
                command: command.clone(),
                user: None,
                shell: None,
            },
        ),
        Command::Import {
            file,
            profile,
            rootdir,
        } => {
            let order = Import {
                file: file.clone(),
                profile: profile.clone(),
                root_dir: rootdir.clone(),
            };
            import(&tree, &state, &order)?;
            if !common.silent {
                say(&format!("{} is imported", state.name()));
            }
            Ok(DONE)
        }
        Command::Pkg { action } => run_own(&state, &package_command(&state, &packages(action))?),
        Command::Chkconfig(typed) => run_own(&state, &service_command(&state, &services(typed))?),
        Command::Suexec { user, command } => enter(
            &state,
            &Entry {
                command: command.clone(),
                user: Some(user.clone()),
                shell: None,
            },
        ),
    }
}

/// Whether a command makes the guest that it names.
fn is_made_by(command: &Command) -> bool {
    matches!(command, Command::Build(_) | Command::Import { .. })
}

/// Runs a program of the guest's as its root.
fn run_own(state: &StateDirectory, command: &[String]) -> Result<u8, LifecycleError> {
    let entry = Entry {
        command: command.iter().map(Into::into).collect(),
        user: None,
        shell: None,
    };
    enter(state, &entry)
}

fn packages(typed: &Pkg) -> PackageAction {
    match typed {
        Pkg::Install { packages } => PackageAction::Install(packages.clone()),
        Pkg::Remove { packages } => PackageAction::Remove(packages.clone()),
        Pkg::Update => PackageAction::Update,
        Pkg::Upgrade => PackageAction::Upgrade,
        Pkg::List => PackageAction::List,
    }
}

fn services(typed: &Chkconfig) -> ServiceAction {
    match (typed.service.clone(), typed.state.as_deref()) {
        (Some(service), Some(state)) => ServiceAction::Set {
            service,
            on: state == "on",
        },
        (Some(service), None) if !typed.list => ServiceAction::Query(service),
        (service, _) => ServiceAction::List(service),
    }
}

fn begin(
    tree: &ConfigTree,
    settings: &GuestSettings,
    state: &StateDirectory,
    rescue: bool,
    common: &Common,
) -> Result<u8, LifecycleError> {
    let command = rescue.then(|| RESCUE.map(str::to_owned).to_vec());
    let running = start(tree, settings, state, command)?;
    if !common.silent {
        let (name, context) = (&settings.name, running.context);
        say(&format!("{name} is started, with context {context}"));
    }
    Ok(DONE)
}

fn end(
    settings: &GuestSettings,
    state: &StateDirectory,
    common: &Common,
) -> Result<u8, LifecycleError> {
    stop(settings, state)?;
    if !common.silent {
        say(&format!("{} is stopped", settings.name));
    }
    Ok(DONE)
}

/// Asks somebody who sits before a terminal; a script means what it says.
fn remove(
    tree: &ConfigTree,
    settings: &GuestSettings,
    state: &StateDirectory,
    common: &Common,
) -> Result<u8, LifecycleError> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() && !common.silent {
        say(&format!(
            "remove {}, and everything in {}? (y/N)",
            settings.name,
            shown(&settings.vdir)
        ));
        let mut answer = String::new();
        drop(stdin.read_line(&mut answer));
        if !answer.trim().eq_ignore_ascii_case("y") {
            return Ok(FAILED);
        }
    }
    delete(tree, settings, state)?;
    if !common.silent {
        say(&format!("{} is deleted", settings.name));
    }
    Ok(DONE)
}

/// Runs `vhashify OPTIONS -- NAME` in this process's place.
fn hashify(arguments: &Arguments, options: &[std::ffi::OsString]) -> u8 {
    let mut typed = vec![
        "vhashify".into(),
        "--config-dir".into(),
        arguments.common.config_dir.clone().into_os_string(),
    ];
    typed.extend(options.iter().cloned());
    typed.push("--".into());
    typed.push(arguments.name.clone());
    let parsed = <vhashify::cli::Arguments as clap::Parser>::parse_from(typed);
    vhashify::cli::status(&parsed)
}

/// Runs `vhashify` in this process's place, path by path or backwards.
fn unify(arguments: &Arguments, options: &[std::ffi::OsString]) -> u8 {
    let common = &arguments.common;
    let mut typed = vec![
        "vserver NAME unify".into(),
        "--config-dir".into(),
        common.config_dir.clone().into_os_string(),
    ];
    typed.extend((0..common.verbose).map(|_| "-v".into()));
    typed.extend(common.silent.then(|| "--quiet".into()));
    typed.extend(options.iter().cloned());
    let parsed = super::unify::parse(arguments.name.clone(), typed);
    vhashify::cli::status(&parsed)
}

fn status(state: &StateDirectory) -> Result<u8, LifecycleError> {
    let name = state.name();
    match mend(state)? {
        GuestState::Running(running, init) => {
            let Running { context, since, .. } = running;
            say(&format!(
                "{name} is running, with context {context}, for {}",
                duration(now().saturating_sub(since))
            ));
            say(&format!("init: {}", init.pid));
            say(&format!("processes: {}", cgroup::processes(context).len()));
            say(&format!("vdir: {}", shown(&running.vdir)));
            if let Some(broker) = running.broker {
                say(if broker.is_alive() {
                    "copy on write: yes"
                } else {
                    "copy on write: its broker is dead; calls that could change a shared file fail \
                     with \"function not implemented\"; restart the guest"
                });
            }
            say(&format!("console: {}", shown(&state.at("console.log"))));
            Ok(DONE)
        }
        GuestState::Starting(_) => {
            say(&format!("{name} is being started"));
            Ok(NOT_RUNNING)
        }
        GuestState::Stopped(last) => {
            let how = last.map_or(String::new(), |last| format!("; {}", ending(last)));
            say(&format!("{name} is not running{how}"));
            Ok(NOT_RUNNING)
        }
    }
}

fn ending(ended: Ended) -> String {
    let ago = duration(now().saturating_sub(ended.at));
    match (ended.status, ended.signal) {
        (Some(status), _) => format!("its init exited with status {status} {ago} ago"),
        (None, Some(signal)) => format!("its init was ended by signal {signal} {ago} ago"),
        (None, None) => format!("it ended unseen, at most {ago} ago"),
    }
}

/// Seconds as people say them.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn shown(path: &Path) -> String {
    vhashify_sys::shown::Shown::path(path).to_string()
}

/// One line on standard output. Nobody listening is no error.
pub fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// One line on standard error. Nobody listening is no error either.
pub fn complain(line: &str) {
    drop(writeln!(std::io::stderr(), "vserver: {line}"));
}

/// Shows this program's own warnings; what `libcontainer` says is for its developers.
pub fn start_tracing(common: &Common) {
    use tracing::Level;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let level = match common.verbose {
        0 if common.silent => Level::ERROR,
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .finish()
        .with(Targets::new().with_targets([("vhashify", level), ("vserver", level)]))
        .init();
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn a_time_is_told_in_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_700, "1 h 1 min"),
            (180_000, "2 d 2 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
