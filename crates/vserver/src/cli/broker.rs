//! `vserver broker`: copy on write for containers that others start.
//!
//! It has options and no guest, so that a guest may be called `broker`, too: its commands are words.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use rustix::net::SocketType;
use vhashify::broker::containers::Containers;
use vhashify::broker::containers::accept_loop::{Protocol, accept_loop};
use vhashify::broker::containers::lxc_hook::{self, HookError};
use vhashify::broker::containers::socket::Socket;
use vhashify::guest::{StoreLocation, check_layout};
use vhashify_config::ConfigTree;
use vhashify_sys::lease::ignore_break_signal;
use vhashify_sys::process::signals_as_descriptor;
use vhashify_sys::shown::Shown;

use super::args::Common;
use super::command::FAILED;
use super::output::{complain, say, start_tracing};
use crate::context::call_numbers::call_table;
use crate::context::callers_cgroup;
use crate::context::notify;

/// The name under which it is run.
const NAME: &str = "broker";

const DONE: u8 = 0;
const USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  vserver broker --socket /run/vhashify/oci --destination /vservers/.hash
  vserver broker --socket /run/vhashify/oci --print-profile
  vserver broker --socket /run/vhashify/oci --lxc-socket /run/vhashify/lxc

Exit status: 0 ended by SIGTERM or SIGINT; 1 a socket cannot be made or
reached; 2 usage or configuration.";

#[derive(Debug, Parser)]
#[command(name = "vserver", version, max_term_width = 80)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Give containers that others start their own copy of what they change
    ///
    /// For guests of runc, crun, youki and LXC that were unified, with vhashify
    /// --manually for example: before one of them changes a shared file, it gets
    /// its own copy, as guests of vserver do. Runs until SIGTERM or SIGINT.
    #[command(name = NAME, after_help = EXAMPLES)]
    Broker(Box<Options>),
}

#[derive(Debug, clap::Args)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// Serve OCI runtimes here: the listenerPath of a container's linux.seccomp
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Serve LXC here, too: its lxc.seccomp.notify.proxy, without "unix:"
    #[arg(long, value_name = "PATH")]
    lxc_socket: Option<PathBuf>,
    /// A store of what containers share; once for each filesystem [default: those of
    /// the configuration]
    #[arg(long, value_name = "STORE")]
    destination: Vec<PathBuf>,
    /// Print the profile that a container needs, and end: linux.seccomp of an OCI
    /// runtime's config.json, or with =lxc what lxc.seccomp.profile names
    #[arg(long, value_name = "FOR", conflicts_with_all = ["destination", "lxc_socket"])]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "oci")]
    print_profile: Option<Profile>,
    /// Tell the broker that LXC starts a container, and end: for lxc.hook.pre-start
    #[arg(long, conflicts_with_all = ["destination", "lxc_socket", "print_profile"])]
    lxc_hook: bool,
    /// What LXC adds to the words of a hook
    #[arg(hide = true, requires = "lxc_hook")]
    hook: Vec<String>,
}

/// Whose profile is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    Oci,
    Lxc,
}

/// Why it ends without having served.
struct Failure(String, u8);

/// Whether a word, and the one after it, are this command and no guest of its name.
pub fn is_meant(word: &OsStr, next: Option<&OsString>) -> bool {
    let is_option = |next: &OsString| next.as_encoded_bytes().starts_with(b"-");
    word == NAME && next.is_none_or(is_option)
}

/// Runs the command.
pub fn run(name: OsString, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let typed = [OsString::from("vserver"), name];
    let Command::Broker(options) =
        Arguments::parse_from(typed.into_iter().chain(arguments)).command;
    start_tracing(&options.common);
    let done = if let Some(profile) = options.print_profile {
        print(profile, &options.socket);
        Ok(())
    } else if options.lxc_hook {
        announce(&options)
    } else {
        serve(&options)
    };
    ExitCode::from(match done {
        Ok(()) => DONE,
        Err(Failure(line, status)) => {
            complain(&line);
            status
        }
    })
}

fn print(profile: Profile, socket: &Path) {
    match profile {
        Profile::Oci => {
            let profile = notify::oci_profile(&socket.to_string_lossy());
            say(&serde_json::to_string_pretty(&profile).unwrap_or_default());
        }
        Profile::Lxc => say(notify::lxc_profile().trim_end()),
    }
}

fn announce(options: &Options) -> Result<(), Failure> {
    // Beside it hooks of version 0 get words, of which the first is the same.
    std::env::var("LXC_NAME")
        .map_err(|_| HookError::NotCalled)
        .and_then(|name| lxc_hook::announce(&options.socket, &name))
        .map_err(|error| Failure(error.to_string(), FAILED))
}

fn serve(options: &Options) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        let line = "only root can do that; run it as root";
        return Err(Failure(line.to_owned(), FAILED));
    }
    let stores = stores(options)?;
    if let Err(error) = vhashify::cli::raise_descriptor_limit() {
        tracing::warn!("{error}");
    }
    // Before there are threads: they are to have the same signals.
    ignore_break_signal();
    let signals = signals_as_descriptor(&[libc::SIGTERM, libc::SIGINT])
        .map_err(|error| Failure(format!("signals cannot be received: {error}"), FAILED))?;
    let listen = |path: &Path, kind| {
        Socket::listen(path, kind).map_err(|error| Failure(error.to_string(), FAILED))
    };
    let oci = listen(&options.socket, SocketType::STREAM)?;
    let mut sockets = vec![(oci, Protocol::Oci)];
    if let Some(path) = &options.lxc_socket {
        let lxc = listen(path, SocketType::SEQPACKET)?;
        sockets.push((lxc, Protocol::LxcProxy));
    }
    if !options.common.silent {
        for (socket, _) in &sockets {
            let path = Shown::path(socket.path());
            say(&format!("containers are served at {path}"));
        }
    }
    let containers = Arc::new(Containers::new(
        stores,
        call_table(),
        Arc::new(callers_cgroup::join),
    ));
    accept_loop(&sockets, &containers, &signals);
    Ok(())
}

/// The stores, open.
fn stores(options: &Options) -> Result<Vec<StoreLocation>, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure(error.to_string(), USAGE);
    let paths = if options.destination.is_empty() {
        let stores =
            ConfigTree::open(&options.common.config_dir).and_then(|tree| tree.all_stores());
        let stores = stores.map_err(|error| {
            let line = format!("{error}; or name the store of the containers with --destination");
            Failure(line, USAGE)
        })?;
        stores.into_iter().map(|store| store.directory).collect()
    } else {
        options.destination.clone()
    };
    let opened = paths.iter().map(|path| StoreLocation::open(path));
    let stores: Vec<StoreLocation> = opened
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&error))?;
    check_layout(&[], &stores).map_err(|error| wrong(&error))?;
    Ok(stores)
}

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};

    use clap::CommandFactory;

    use super::{Arguments, NAME, is_meant};

    #[test]
    fn the_flag_table_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_guest_may_have_the_same_name() {
        for (next, meant) in [
            (None, true),
            (Some("--socket"), true),
            (Some("start"), false),
        ] {
            let next = next.map(OsString::from);
            assert_eq!(is_meant(OsStr::new(NAME), next.as_ref()), meant, "{next:?}");
        }
        assert!(!is_meant(OsStr::new("web"), None));
    }

    #[test]
    fn help_fits_a_terminal_of_80_columns() {
        let mut command = Arguments::command();
        command.build();
        let broker = command.find_subcommand_mut(NAME).unwrap();
        *broker = std::mem::take(broker).term_width(80);
        for line in broker.render_long_help().to_string().lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }
}
