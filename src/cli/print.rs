//! Where a result goes: standard output or a file, and errors to standard error.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::Serialize;
use vhashify_sys::call_error::{advice, reason};
use vhashify_sys::shown::Shown;

use super::args::{Common, Format};
use super::failure::{DONE, SOME_FAILED};
use super::output::Text;
use crate::outcome::FileError;

/// Prints a result in the format that was asked for, and each failed file on standard error; gives the exit
/// status.
pub fn print(common: &Common, text: &impl Text, json: &impl Serialize) -> u8 {
    emit(&rendered(common, text, json), &text.errors(), None)
}

/// A result in the format that was asked for; empty with `--quiet`, which prints errors alone.
pub fn rendered(common: &Common, text: &impl Text, json: &impl Serialize) -> String {
    match common.format {
        Format::Json => serde_json::to_string_pretty(json).unwrap_or_default(),
        Format::Text if common.quiet => String::new(),
        // Only a report has a page, and it is not rendered here.
        Format::Text | Format::Html => text.text(common.verbose > 0),
    }
}

/// Writes a result to a file or to standard output, and each failed file on standard error; gives the exit
/// status.
pub fn emit(printed: &str, errors: &[&FileError], output: Option<&Path>) -> u8 {
    for error in errors {
        say(&format!("{}: {}", Shown::path(&error.path), error.reason));
    }
    let (written, place) = match output {
        Some(file) => (
            fs::write(file, format!("{printed}\n")),
            Shown::path(file).to_string(),
        ),
        None if printed.is_empty() => (Ok(()), String::new()),
        None => (
            writeln!(io::stdout(), "{printed}"),
            "standard output".to_owned(),
        ),
    };
    if let Err(error) = written
        // The reader closed the pipe because it has read what it wanted.
        && error.kind() != ErrorKind::BrokenPipe
    {
        let (reason, advice) = (reason(&error), advice(&error));
        say(&format!(
            "the result cannot be written to {place}: {reason}{advice}"
        ));
        return SOME_FAILED;
    }
    if errors.is_empty() { DONE } else { SOME_FAILED }
}

/// One line on standard error.
pub fn say(line: &str) {
    // Where standard error is gone, nobody is left to tell.
    drop(writeln!(io::stderr(), "vhashify: {line}"));
}
