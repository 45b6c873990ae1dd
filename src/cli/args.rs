//! What can be typed. Nothing is looked up here; `selection` says what it means.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  vhashify --all                     unify every guest that is marked for it
  vhashify -n web mail               say what unifying these two would do
  vhashify --manually --destination /vservers/.hash /vservers/web /vservers/mail
  vhashify gc                        remove objects that no guest uses any more
  vhashify deunify web /usr/bin/vim  give one file of a guest its own copy back

A guest that is called like a command is named after `--`: vhashify -- gc

Exit status: 0 all done; 1 finished, but some files failed (each is named);
2 usage or configuration; 3 refused (no protection, or the store is busy).";

/// Four readings by a weekly `verify --deep` may fail before a run reads for itself.
pub const REREAD_AFTER: u32 = 28;

/// Let identical files of many guests share one inode, safely.
///
/// Files are found by content, kept once in a store on the same filesystem, and hard-linked into
/// every guest that has them. Mode, owner, times, ACLs and capabilities stay as they are.
#[derive(Debug, Parser)]
#[command(name = "vhashify", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(override_usage = "vhashify [OPTIONS] (--all | GUEST...)
       vhashify [OPTIONS] --manually --destination STORE [--exclude-from FILE] ROOT...
       vhashify [OPTIONS] (gc | verify | deunify | report | guard) ...")]
pub struct Arguments {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// Options of a run.
    #[command(flatten)]
    pub run: RunArguments,
    /// What to do, if it is not a run.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Common {
    /// The configuration tree
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "VSERVER_CONFDIR",
        hide_env_values = true
    )]
    #[arg(default_value = "/etc/vservers")]
    pub config_dir: PathBuf,
    /// Where indexes are kept
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/var/lib/vhashify"
    )]
    pub state_dir: PathBuf,
    /// Use this store instead of those of the configuration
    #[arg(long, global = true, value_name = "STORE")]
    pub destination: Option<PathBuf>,
    /// Give up at once if another run holds the store
    #[arg(long, global = true)]
    pub no_wait: bool,
    /// How the result is printed
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Say more; twice, say everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,
    /// When to draw progress bars on standard error
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = When::Auto)]
    pub progress: When,
}

/// Options of a run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run options")]
pub struct RunArguments {
    /// Guests to unify, by name; with --manually, their root directories
    #[arg(value_name = "GUEST")]
    pub guests: Vec<OsString>,
    /// Path by path against reference guests, of these paths (`vserver NAME unify`); never typed
    #[arg(skip)]
    pub by_path: Option<Vec<PathBuf>>,
    /// Unify every guest of the configuration that is marked for it
    #[arg(long, conflicts_with = "manually")]
    pub all: bool,
    /// Name root directories instead of guests; needs --destination
    #[arg(long)]
    pub manually: bool,
    /// With --manually: a file of patterns that are left out (none, by default)
    #[arg(long, value_name = "FILE", requires = "manually")]
    pub exclude_from: Option<PathBuf>,
    /// How it is done.
    #[command(flatten)]
    pub how: How,
}

/// Options of a run that do not say of what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run options")]
pub struct How {
    /// Change nothing, say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Take files that differ in nothing but their mtime for the same; all but one lose theirs
    #[arg(long)]
    pub ignore_mtime: bool,
    /// Read everything again, whatever the index remembers
    #[arg(long)]
    pub refresh: bool,
    /// Read a shared file from the disk before a further guest gets it, unless that was done in so
    /// many days; 0 for always
    #[arg(long, value_name = "DAYS", default_value_t = REREAD_AFTER)]
    pub reread_after: u32,
    /// Leave files alone that are smaller
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub min_size: u64,
    /// Count of threads [default: one for each processor, four where they read and link]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// How shared files are kept from being written
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Protect::Auto)]
    pub protect: Protect,
}

/// Commands other than a run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Remove objects that no guest uses any more
    Gc {
        /// Change nothing, say what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Check that every object is what its name says, and the index what is on the disk
    Verify {
        /// Read the content of every object, too
        #[arg(long)]
        deep: bool,
        /// Mend what is found and make the index anew; reads all content
        #[arg(long)]
        repair: bool,
    },
    /// Give a guest, or paths of it, its own copies back
    #[command(override_usage = "vhashify deunify [OPTIONS] GUEST [PATH]...
       vhashify deunify [OPTIONS] --manually --destination STORE ROOT [PATH]...")]
    Deunify {
        /// Name a root directory instead of a guest; needs --destination
        #[arg(long)]
        manually: bool,
        /// Change nothing, say what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// The guest; with --manually, its root directory
        guest: OsString,
        /// Files or directories, as the guest sees them [default: all of it]
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Show what each guest costs and shares, what is saved, and what could be
    Report {
        /// Write it to a file instead of standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Load, show or unload the guard, which keeps shared files from being written
    #[cfg(feature = "guard")]
    Guard {
        /// What to do with it
        #[command(subcommand)]
        command: GuardCommand,
    },
}

/// What can be done with the guard.
#[cfg(feature = "guard")]
#[derive(Debug, Clone, Subcommand)]
pub enum GuardCommand {
    /// Load it, for the filesystem of every store of the configuration; needs no guest to be stopped
    Load,
    /// Show where it guards, and what it refused
    Status,
    /// Unload it, unless guests run that could change shared files then
    Unload {
        /// Even if guests run
        #[arg(long)]
        force: bool,
        /// Where vserver keeps the state of running guests
        #[arg(long, value_name = "DIR", default_value = "/run/vservers")]
        vserver_state_dir: PathBuf,
    },
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one object on standard output.
    Json,
    /// For a browser: one page that stands alone (report only).
    Html,
}

/// When to do something that is for terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal.
    Auto,
    /// In any case.
    Always,
    /// In no case.
    Never,
}

/// How shared files are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protect {
    /// The strongest that this host can enforce; refuse if there is none
    Auto,
    /// Mark them, and have the guard in the kernel refuse every change of a marked file
    Lsm,
    /// Share extents and no inodes: disk, but no page cache; Btrfs and XFS, guests may run
    Reflink,
    /// Mark them, and have fs-verity hold their content; a guest can still change their metadata for all
    Verity,
    /// Mark them, enforce nothing: for guests at rest that are trusted
    None,
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
