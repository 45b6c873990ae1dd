//! Runs the commands of one guest, and says what was done.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::process::ExitCode;

use vhashify_config::{ConfigTree, GuestSettings};

use super::args::{Arguments, Chkconfig, Command, Common, Pkg};
use super::output::{complain, say, shown, start_tracing};
use super::status::status;
use crate::lifecycle::build::{Import, delete, import};
use crate::lifecycle::distribution::{
    PackageAction, ServiceAction, package_command, service_command,
};
use crate::lifecycle::enter::{Entry, enter};
use crate::lifecycle::observe::mend;
use crate::lifecycle::start::{start, start_again};
use crate::lifecycle::stop::stop;
use crate::lifecycle::{GuestState, LifecycleError, StateDirectory};

const DONE: u8 = 0;
pub const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// The command that process 1 of a rescued guest is.
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

/// The exit status for an error: configuration that makes no sense has another than what could not be done.
pub fn status_of(error: &LifecycleError) -> u8 {
    match error {
        LifecycleError::NotRun { status, .. } => *status,
        LifecycleError::Config(_) | LifecycleError::Setting { .. } => USAGE,
        _ => FAILED,
    }
}

/// Opens the tree, checks that the guest exists and that root asks, and runs the command.
fn carry_out(arguments: &Arguments) -> Result<u8, LifecycleError> {
    let common = &arguments.common;
    let tree = ConfigTree::open(&common.config_dir)?;
    // Every command names a guest that is there, and no name leads out of the tree.
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
    dispatch(arguments, &tree, &state)
}

/// The table of commands.
fn dispatch(
    arguments: &Arguments,
    tree: &ConfigTree,
    state: &StateDirectory,
) -> Result<u8, LifecycleError> {
    let common = &arguments.common;
    let settings = || tree.settings(OsStr::new(&arguments.name));
    match &arguments.command {
        Command::Build(build) => {
            crate::lifecycle::build::build(tree, state, &build.plan())?;
            Ok(done(common, state.name(), "built"))
        }
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
            import(tree, state, &order)?;
            Ok(done(common, state.name(), "imported"))
        }
        Command::Delete => remove(tree, &settings()?, state, common),
        Command::Hashify { options } => Ok(hashify(arguments, options)),
        Command::Unify { options } => Ok(unify(arguments, options)),
        Command::Start { rebooted: true, .. } => {
            start_again(tree, &settings()?, state).map(|_| DONE)
        }
        Command::Start { rescue, .. } => begin(tree, &settings()?, state, *rescue, common),
        Command::Stop => end(&settings()?, state, common),
        Command::Restart => restart(tree, &settings()?, state, common, true),
        Command::Condrestart => restart(tree, &settings()?, state, common, false),
        Command::Running => Ok(match mend(state)? {
            GuestState::Running(..) => DONE,
            GuestState::Starting(_) | GuestState::Stopped(_) => FAILED,
        }),
        Command::Status => status(state),
        Command::Enter => {
            let shell = settings()?.shell;
            run_inside(state, Vec::<OsString>::new(), None, shell)
        }
        Command::Exec { command } => run_inside(state, command, None, None),
        Command::Suexec { user, command } => run_inside(state, command, Some(user.clone()), None),
        Command::Pkg { action } => {
            let command = package_command(state, &packages(action))?;
            run_inside(state, command, None, None)
        }
        Command::Chkconfig(typed) => {
            let command = service_command(state, &services(typed))?;
            run_inside(state, command, None, None)
        }
    }
}

/// Whether a command makes the guest that it names.
fn is_made_by(command: &Command) -> bool {
    matches!(command, Command::Build(_) | Command::Import { .. })
}

/// Runs a command in the guest, as its root unless there is a `user`; without a command, a shell.
fn run_inside(
    state: &StateDirectory,
    command: impl IntoIterator<Item = impl Into<OsString>>,
    user: Option<String>,
    shell: Option<String>,
) -> Result<u8, LifecycleError> {
    let entry = Entry {
        command: command.into_iter().map(Into::into).collect(),
        user,
        shell,
    };
    enter(state, &entry)
}

/// Says what was done, unless the command is to be silent. Gives the exit status.
fn done(common: &Common, name: &str, what: &str) -> u8 {
    if !common.silent {
        say(&format!("{name} is {what}"));
    }
    DONE
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
    let what = format!("started, with context {}", running.context);
    Ok(done(common, &settings.name, &what))
}

fn end(
    settings: &GuestSettings,
    state: &StateDirectory,
    common: &Common,
) -> Result<u8, LifecycleError> {
    stop(settings, state)?;
    Ok(done(common, &settings.name, "stopped"))
}

/// Stops the guest if it runs, and starts it; one that does not run is started only if `always`.
fn restart(
    tree: &ConfigTree,
    settings: &GuestSettings,
    state: &StateDirectory,
    common: &Common,
    always: bool,
) -> Result<u8, LifecycleError> {
    match mend(state)? {
        GuestState::Running(..) => {
            end(settings, state, common)?;
        }
        _ if always => {}
        _ => return Ok(DONE),
    }
    begin(tree, settings, state, false, common)
}

/// Removes the guest. Asks first where standard input is a terminal; a script means what it says.
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
    Ok(done(common, &settings.name, "deleted"))
}

/// Runs `vhashify OPTIONS -- NAME` in this process's place.
fn hashify(arguments: &Arguments, options: &[OsString]) -> u8 {
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
fn unify(arguments: &Arguments, options: &[OsString]) -> u8 {
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
