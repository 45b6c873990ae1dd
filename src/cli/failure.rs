//! Why a command did nothing, and the exit statuses.

use std::fmt;

use crate::Error;

/// All is done.
pub const DONE: u8 = 0;
/// The command finished, but some files failed, or the result could not be written.
pub const SOME_FAILED: u8 = 1;
/// Usage or configuration; nothing was changed.
pub const USAGE: u8 = 2;
/// The command was refused; nothing was changed.
pub const REFUSED: u8 = 3;

/// Why nothing was done.
#[derive(Debug)]
pub enum Failure {
    /// What was typed makes no sense, or not in this place: what to type instead.
    Usage(&'static str),
    /// The library stopped the command.
    Error(Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => out.write_str(text),
            Self::Error(error) => error.fmt(out),
        }
    }
}

impl Failure {
    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Error(error) if error.is_refusal() => REFUSED,
            _ => USAGE,
        }
    }
}
