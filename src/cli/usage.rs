//! Which options and commands go together, as far as the parser of arguments cannot say it.

use super::args::{Arguments, Command, Format, Protect, REREAD_AFTER};
use super::failure::Failure;

/// Checks what was typed; nothing is looked up.
///
/// # Errors
/// [`Failure::Usage`].
pub fn check(arguments: &Arguments) -> Result<(), Failure> {
    let run = &arguments.run;
    let how = &run.how;
    let is_report = matches!(arguments.command, Some(Command::Report { .. }));
    if arguments.common.format == Format::Html && !is_report {
        return Err(Failure::Usage("--format html goes with report alone"));
    }
    if arguments.command.is_some() {
        let is_plain = run.guests.is_empty()
            && !(run.all || run.manually || how.dry_run || how.refresh || how.ignore_mtime)
            && run.exclude_from.is_none()
            && how.min_size == 0
            && how.reread_after == REREAD_AFTER
            && how.protect == Protect::Auto;
        if !is_plain {
            return Err(Failure::Usage(
                "options of a run do not go with a command; put the command's own after its name",
            ));
        }
    } else if run.all && !run.guests.is_empty() {
        return Err(Failure::Usage("name guests or say --all, not both"));
    } else if !run.all && run.guests.is_empty() {
        return Err(Failure::Usage(
            "which guests? name them, or say --all (vhashify --help shows more)",
        ));
    }
    Ok(())
}
