//! Why the guard cannot be had, or not be given up.

use std::io;
use std::path::Path;

use thiserror::Error;
use vhashify_sys::call_error::{CallError, advice, reason};

/// What went wrong with the guard. Its text is a clause on one line.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuardError {
    /// This kernel, as it runs, can have no guard.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The kernel refused to take a part of the guard.
    #[error("the kernel refused {part} of the guard: {reason}")]
    Refused {
        /// A hook's or a map's name.
        part: String,
        /// In the words of the kernel, as far as they fit one line; `-v` logs all.
        reason: String,
    },
    /// A system call failed.
    #[error(transparent)]
    System(#[from] CallError),
    /// A guest that could change shared files without the guard is running.
    #[error(
        "the guard stays: process {process} has a root directory of its own on the guarded filesystem {device}; stop the guests, or say --force"
    )]
    GuestsRun {
        /// One of the guest's processes.
        process: i32,
        /// The filesystem.
        device: String,
    },
    /// A guest of `vserver` is running, or being started.
    #[error(
        "the guard stays: the guest {name} runs on a guarded filesystem, with context {context}; stop it, or say --force"
    )]
    GuestRuns {
        /// The guest.
        name: String,
        /// Its context.
        context: u32,
    },
}

impl GuardError {
    /// A failed system call on `path`.
    pub(super) fn call(call: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        CallError::new(call, path, source).into()
    }

    /// What aya says of a part.
    pub(super) fn refused(part: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::info!("{part}: {error}");
        // The cause at the end of the chain is the kernel's; what is above it may hold the
        // verifier's log, of many lines.
        let mut cause = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        let reason = cause.downcast_ref::<io::Error>().map_or_else(
            || {
                cause
                    .to_string()
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            },
            |error| format!("{}{}", reason(error), advice(error)),
        );
        Self::Refused {
            part: part.to_owned(),
            reason,
        }
    }

    /// Whether the command was refused, rather than wrongly put.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::System(_))
    }
}
