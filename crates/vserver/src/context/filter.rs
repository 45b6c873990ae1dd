//! Loads a filter of system calls into this thread.
//!
//! libseccomp resolves the names of a filter, and knows those of its own time. `libcontainer` leaves out what it does
//! not know, so that on a newer kernel the call would pass. So a second filter refuses these calls by their numbers,
//! and with them every call that is newer than this program: nobody has looked yet whether one of those changes a shared
//! file past the broker.

use std::io;
use std::os::fd::OwnedFd;

use libcontainer::oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use libcontainer::seccomp::initialize_seccomp;
use thiserror::Error;
use vhashify_sys::seccomp::{adopt, refuse_numbers};

use super::call_numbers::{Known, NEWEST, known};

/// Why a filter cannot be loaded.
#[derive(Debug, Error)]
pub enum FilterError {
    /// A name that is no call of any kernel that this program knows.
    #[error("{name} is no system call")]
    UnknownCall {
        /// The name.
        name: String,
    },
    /// `seccomp(2)`.
    #[error("calls cannot be refused by their numbers: {source}")]
    RefuseNumbers {
        /// Why.
        source: io::Error,
    },
}

/// Loads a filter of system calls into this thread; its children and the programs that it executes inherit it. Gives the
/// listener on which notifications arrive, if the filter has calls that wait for one.
///
/// # Errors
/// The filter cannot be made, or not be loaded; or this process has loaded one with a listener before.
pub fn load_filter(filter: &LinuxSeccomp) -> io::Result<Option<OwnedFd>> {
    refuse_unnamed(filter).map_err(io::Error::other)?;
    let listener = initialize_seccomp(filter).map_err(io::Error::other)?;
    listener.map(adopt).transpose()
}

/// Refuses the calls of a filter that libseccomp does not know, and those that are newer than this program: `ENOSYS`,
/// as under an older kernel. The rest of the filter is left to whoever loads it.
///
/// # Errors
/// [`FilterError`].
pub fn refuse_unnamed(filter: &LinuxSeccomp) -> Result<(), FilterError> {
    let mut numbers = Vec::new();
    for rule in filter.syscalls().iter().flatten() {
        if rule.action() == LinuxSeccompAction::ScmpActAllow {
            continue;
        }
        for name in rule.names() {
            match known(name) {
                Known::ByName => {}
                Known::ByNumber(number) => numbers.push(number),
                Known::Not => {
                    let name = name.clone();
                    return Err(FilterError::UnknownCall { name });
                }
            }
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    refuse_numbers(&numbers, NEWEST).map_err(|errno| FilterError::RefuseNumbers {
        source: errno.into(),
    })
}
