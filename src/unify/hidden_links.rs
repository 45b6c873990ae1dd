//! Finds out who links an object in places that the scan does not see.
//!
//! A guest may have given an object another name in a directory that is excluded. Were the name
//! that the scan sees removed later, the guest would look as if it had no link to this object, and
//! a second file of the guest could be linked to it: two names would share an inode that did not
//! before (invariant 3). The link count tells when there are names that the scan did not see; then
//! the excluded directories are walked, too, but only for inode numbers, which costs no `statx`.

use std::collections::{HashMap, HashSet};

use crate::guest::Guest;
use crate::relink::names::each_name;
use crate::scan::GuestId;

/// Which guests have any name of the inodes in question.
#[derive(Debug, Default)]
pub struct HiddenLinks {
    holders: HashMap<u64, Vec<GuestId>>,
    /// Guests of which a directory could not be read: they may have a name of anything.
    unknown: Vec<GuestId>,
}

impl HiddenLinks {
    /// Walks all of `guests` for names of the inodes in `wanted`.
    #[must_use]
    pub fn find(guests: &[&Guest], wanted: &HashSet<u64>) -> Self {
        let mut links = Self::default();
        for (number, guest) in guests.iter().enumerate() {
            let number = GuestId::try_from(number).unwrap_or(GuestId::MAX);
            let mut found = HashSet::new();
            let walked = each_name(guest, |_, _, inode| {
                if wanted.contains(&inode) {
                    found.insert(inode);
                }
            });
            if walked.is_err() {
                links.unknown.push(number);
            }
            for inode in found {
                links.holders.entry(inode).or_default().push(number);
            }
        }
        links
    }

    /// The guests that have, or may have, a name of `inode`.
    pub fn holders(&self, inode: u64) -> impl Iterator<Item = GuestId> {
        let known = self.holders.get(&inode).map_or(&[][..], Vec::as_slice);
        known.iter().chain(&self.unknown).copied()
    }
}
