//! What can be typed after `vserver`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::method::Build;

const EXAMPLES: &str = "\
Examples:
  vserver web start             start the guest that /etc/vservers/web configures
  vserver web exec ps aux       run a command in it, and exit as it did
  vserver web enter             a shell in it, on a terminal of its own
  vserver web stop
  vserver web build -m debootstrap --interface 10.0.0.2 -- -d bookworm
  vserver new build -m clone -- --source web

About many guests, each also under its own name by a link to this program:
  vserver vserver-stat | vps | vkill | start-vservers | stop-vservers   (each with --help)
About a guest that runs, likewise:
  vserver vlimit | vsched | vattribute
For containers of runc, crun and youki that share files:
  vserver broker   (with --help)

Exit status: 0 done; 1 it could not be done, or (running) the guest does not run; 2 usage or
configuration; 3 (status) the guest does not run. exec, suexec and enter exit as their command did,
with 127 when the guest has no such program and 126 when it cannot be run.";

/// Build, start, enter and stop guests.
#[derive(Debug, Parser)]
#[command(name = "vserver", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Arguments {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// The guest: a directory of the configuration tree
    #[arg(value_name = "NAME")]
    pub name: OsString,
    /// What to do with it.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args, Clone)]
pub struct Common {
    /// The configuration tree
    #[arg(
        long,
        value_name = "DIR",
        env = "VSERVER_CONFDIR",
        hide_env_values = true
    )]
    #[arg(default_value = "/etc/vservers")]
    pub config_dir: PathBuf,
    /// Where the state of running guests is kept
    #[arg(long, value_name = "DIR", default_value = "/run/vservers")]
    pub state_dir: PathBuf,
    /// Say more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(long, alias = "quiet", conflicts_with = "verbose")]
    pub silent: bool,
}

/// What is done with a guest.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make it: its files and its configuration
    Build(Box<Build>),
    /// Start it
    Start {
        /// Run `sleep` in place of its init, so that it can be entered and mended
        #[arg(long)]
        rescue: bool,
        /// Only if it has rebooted itself, and nobody has stopped it since: its monitor says that
        #[arg(long, hide = true, conflicts_with = "rescue")]
        rebooted: bool,
    },
    /// Stop it
    Stop,
    /// Stop it if it runs, and start it
    Restart,
    /// Stop and start it if it runs, else do nothing
    Condrestart,
    /// Say by the exit status whether it runs: 0 or 1
    Running,
    /// Say whether it runs, and since when, or how it ended
    Status,
    /// Open a shell in it
    Enter,
    /// Run a command in it as its root
    Exec {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        #[arg(value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Remove it, its configuration and all its files
    Delete,
    /// Unify it: vhashify NAME, with the options of vhashify
    Hashify {
        /// Options of vhashify
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTION"
        )]
        options: Vec<OsString>,
    },
    /// Unify it path by path against its reference guests, or with -R undo that
    #[command(disable_help_flag = true)]
    Unify {
        /// Options, and paths as the guest sees them; --help lists them
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTION|PATH"
        )]
        options: Vec<OsString>,
    },
    /// Configure it as its old-style NAME.conf says, which is read and never run
    Import {
        /// The file [default: NAME.conf in the configuration tree]
        file: Option<PathBuf>,
        /// The branch of the file's case $PROFILE [default: as the file says]
        #[arg(long, value_name = "NAME")]
        profile: Option<String>,
        /// Its root directory lies in this one [default: .defaults/vdirbase, else /vservers]
        #[arg(long, value_name = "DIR")]
        rootdir: Option<PathBuf>,
    },
    /// Install and remove packages in it, with its own package manager
    Pkg {
        /// What to do
        #[command(subcommand)]
        action: Pkg,
    },
    /// Start its services with it, or not, with its own tools
    Chkconfig(Chkconfig),
    /// Run a command in it as one of its users
    Suexec {
        /// The user, by name or number
        user: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        #[arg(value_name = "CMD")]
        command: Vec<OsString>,
    },
}

/// What is done with packages of a guest that runs.
#[derive(Debug, Subcommand)]
pub enum Pkg {
    /// Install packages
    Install {
        /// Their names
        #[arg(required = true, value_name = "PACKAGE")]
        packages: Vec<String>,
    },
    /// Remove packages
    Remove {
        /// Their names
        #[arg(required = true, value_name = "PACKAGE")]
        packages: Vec<String>,
    },
    /// Fetch the lists of packages
    Update,
    /// Upgrade all that is installed
    Upgrade,
    /// List what is installed
    List,
}

/// What is done with services of a guest that runs.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Chkconfig {
    /// List the services, or one
    #[arg(long)]
    pub list: bool,
    /// The service; alone, say by the exit status whether it is started
    #[arg(required_unless_present = "list")]
    pub service: Option<String>,
    /// Start it with the guest, or not
    #[arg(value_parser = ["on", "off"], conflicts_with = "list")]
    pub state: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::CommandFactory;

    #[test]
    fn the_flag_table_is_consistent() {
        Arguments::command().debug_assert();
    }
}
