//! `vserver NAME unify`: its arguments, translated to those of `vhashify`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use vhashify::cli::args::{Arguments, Command, Common, How, RunArguments};

const NOTES: &str = "\
Reference guests are the links apps/vunify/refserver.* of the guest to the directories of others
in the configuration tree, in the order of their names. A file is shared with the first of them that
has the same at the same path. Without any, all of the guest is unified as vserver NAME hashify
does it.

Exit status: as vhashify.";

/// Unify a guest path by path against its reference guests.
#[derive(Debug, Parser)]
#[command(name = "vserver NAME unify", after_help = NOTES, max_term_width = 100)]
#[command(override_usage = "vserver NAME unify [OPTIONS] [PATH]...
       vserver NAME unify -R [OPTIONS] [PATH]...")]
struct Typed {
    #[command(flatten)]
    common: Common,
    /// The reverse: give the guest its own copies back
    #[arg(short = 'R', long)]
    #[arg(conflicts_with_all = ["ignore_mtime", "refresh", "min_size", "protect", "reread_after"])]
    undo: bool,
    #[command(flatten)]
    how: How,
    /// Files or directories, as the guest sees them [default: all of it]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// What `vserver NAME unify` is to `vhashify`; `typed` begins with the name of the program. Ends the
/// process where the words make no sense, as every parser of arguments does.
pub fn parse(name: OsString, typed: Vec<OsString>) -> Arguments {
    translated(name, Typed::parse_from(typed))
}

fn translated(name: OsString, typed: Typed) -> Arguments {
    let Typed {
        common,
        undo,
        mut how,
        paths,
    } = typed;
    let dry_run = how.dry_run;
    // Of a command, that is an option of its own.
    how.dry_run &= !undo;
    let (guests, by_path, command) = if undo {
        let command = Command::Deunify {
            manually: false,
            dry_run,
            guest: name,
            paths,
        };
        (Vec::new(), None, Some(command))
    } else {
        (vec![name], Some(paths), None)
    };
    Arguments {
        common,
        run: RunArguments {
            guests,
            by_path,
            all: false,
            manually: false,
            exclude_from: None,
            how,
        },
        command,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Typed, translated};
    use vhashify::cli::args::Command;

    fn parsed(words: &[&str]) -> Result<Typed, clap::Error> {
        let program = std::iter::once(&"vserver NAME unify");
        Typed::try_parse_from(program.chain(words))
    }

    #[test]
    fn the_flag_table_is_consistent() {
        Typed::command().debug_assert();
    }

    #[test]
    fn a_dry_run_is_one_in_both_directions() {
        let run = translated("web".into(), parsed(&["-n", "/usr"]).unwrap());
        assert!(run.run.how.dry_run && run.command.is_none());
        assert_eq!(run.run.by_path, Some(vec!["/usr".into()]));
        for undo in ["-R", "--undo"] {
            let undone = translated("web".into(), parsed(&[undo, "-n", "report"]).unwrap());
            assert!(!undone.run.how.dry_run);
            let Some(Command::Deunify {
                dry_run,
                guest,
                paths,
                ..
            }) = undone.command
            else {
                panic!("{undo} is no deunify");
            };
            assert!(dry_run);
            assert_eq!(guest, "web");
            assert_eq!(paths, ["report"].map(std::path::PathBuf::from));
        }
    }

    #[test]
    fn what_has_no_meaning_backwards_is_refused() {
        for words in [
            &["-R", "--protect", "none"][..],
            &["-R", "--refresh"],
            &["-R", "--ignore-mtime"],
            &["-R", "--min-size", "1"],
            &["-R", "--reread-after", "1"],
            &["--all"],
        ] {
            assert!(parsed(words).is_err(), "{words:?}");
        }
    }
}
