//! Why the guard cannot be loaded or unloaded.

use std::io;
use std::path::Path;

use aya::programs::ProgramError;
use thiserror::Error;
use vhashify_sys::call_error::{CallError, advice, reason};

/// What went wrong with the guard. Its text is a clause on one line.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The running kernel cannot have a guard.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The kernel refused to load a part of the guard.
    #[error("the kernel refused {part} of the guard: {reason}")]
    Refused {
        /// A hook's or a map's name.
        part: String,
        /// In the words of the kernel, as far as they fit one line; `-v` logs all.
        reason: String,
    },
    /// The guard did not refuse a change of a marked file.
    #[error(
        "the guard is loaded and lets {0} through, which this kernel must ask it by another hook; take --protect reflink, or another kernel"
    )]
    LetsThrough(&'static str),
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

    /// From aya's error about a part.
    pub(super) fn refused(part: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::info!("{part}: {error}");
        Self::Refused {
            part: part.to_owned(),
            reason: words_of(error),
        }
    }

    /// Whether the guard or the kernel refused the command, rather than a system call failed.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::System(_))
    }
}

/// The kernel's answer on one line. If the verifier refused a program, that is the last line of its log, since the error
/// number says nothing then.
fn words_of(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(ProgramError::LoadError {
        io_error,
        verifier_log,
    }) = error.downcast_ref()
        && let Some(words) = last_words(&verifier_log.to_string())
    {
        return format!("{}; the verifier says: {words}", reason(io_error));
    }
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.downcast_ref::<io::Error>().map_or_else(
        || {
            let text = cause.to_string();
            text.lines().next().unwrap_or_default().to_owned()
        },
        |error| format!("{}{}", reason(error), advice(error)),
    )
}

/// The last line of a verifier's log, before the figures about its work.
fn last_words(log: &str) -> Option<&str> {
    const FIGURES: [&str; 3] = ["processed ", "verification time ", "stack depth "];
    log.lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !FIGURES.iter().any(|figure| line.starts_with(figure)))
}

#[cfg(test)]
mod tests {
    use super::last_words;

    #[test]
    fn a_verifier_speaks_before_it_counts() {
        let log = "0: R1=ctx()\n5: (61) r3 = *(u32 *)(r2 +12)\n\
                   R2 invalid mem access 'trusted_ptr_or_null_'\n\
                   verification time 24 usec\nstack depth 0\nprocessed 6 insns (limit 1000000)\n";
        let words = "R2 invalid mem access 'trusted_ptr_or_null_'";
        assert_eq!(last_words(log), Some(words));
        assert_eq!(last_words("processed 0 insns\n"), None);
    }
}
