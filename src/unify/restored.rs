//! Leads further names to a file that recovery has put back in a guest, or to a copy that it has spread there.
//!
//! Since a command was killed the guest may have moved names that it had exchanged, or have linked them. No name of the
//! guest led to the object before a run, and none may after a break: so all that do are names of that file.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use crate::guest::Guest;
use crate::outcome::FileError;
use crate::relink::names::each_name;
use crate::relink::stray_links::relink;
use crate::relink::temporary::{self, Purpose, Serving};
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

/// Walks each guest once, and again for files that have such names. Returns what could not be done.
#[must_use]
pub fn relink_names(
    work: &WorkDirectory,
    guests: &[&Guest],
    restored: Vec<Restored>,
) -> Vec<FileError> {
    let mut errors = Vec::new();
    let mut by_guest: HashMap<GuestId, HashMap<u64, Restored>> = HashMap::new();
    for one in restored {
        let of_guest = by_guest.entry(one.guest).or_default();
        of_guest.insert(one.object, one);
    }
    for (guest, restored) in by_guest {
        let guest = guests[usize::from(guest)];
        let mut strays = HashSet::new();
        let walked = each_name(guest, |_, name, inode| {
            if restored.contains_key(&inode) && !temporary::is_one(name) {
                strays.insert(inode);
            }
        });
        for (object, one) in restored {
            // Where the walk fails each file meets its own error.
            if walked.is_ok() && !strays.contains(&object) {
                continue;
            }
            let serving = Serving {
                purpose: one.purpose,
                object,
            };
            let relinked = relink(work, guest, object, one.file.as_fd(), serving);
            errors.extend(relinked.err().map(|error| error.at(one.path)));
        }
    }
    errors
}
