//! Leads further names to a file that recovery has put back in a guest, or to a copy that it has spread there.
//!
//! Since a command was killed the guest may have moved names that it had exchanged, or have linked them. No name of the
//! guest led to the object before a run, and none may after a break: so all that do are names of that file.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crate::guest::Guest;
use crate::outcome::FileError;
use crate::relink::stray_links::{Relinking, relink_each};
use crate::relink::temporary::{Purpose, Serving};
use crate::relink::work_directory::WorkDirectory;
use crate::scan::GuestId;

/// A file that was put back in a guest, or a copy that was spread there.
#[derive(Debug)]
pub struct Restored {
    /// The guest.
    pub guest: GuestId,
    /// What the killed command was for.
    pub purpose: Purpose,
    /// The inode number of the object.
    pub object: u64,
    /// The file.
    pub file: OwnedFd,
    /// One of its names, for messages.
    pub path: PathBuf,
}

/// Leads further names in the guests to these. Returns what could not be done.
#[must_use]
pub fn relink_names(
    work: &WorkDirectory,
    guests: &[&Guest],
    restored: &[Restored],
) -> Vec<FileError> {
    let wanted = restored.iter().map(|one| Relinking {
        work,
        guest: guests[usize::from(one.guest)],
        inode: one.object,
        owner: one.file.as_fd(),
        serving: Serving {
            purpose: one.purpose,
            object: one.object,
        },
    });
    let wanted: Vec<Relinking<'_>> = wanted.collect();
    let failed = relink_each(&wanted).into_iter();
    let errors = failed.map(|(at, error)| error.at(restored[at].path.clone()));
    errors.collect()
}
