//! The objects that save most.

use std::cmp::Reverse;
use std::os::unix::ffi::OsStrExt;

use serde::Serialize;
use vhashify_sys::shown::Shown;

use super::survey::Survey;

/// An object. Bytes are those that the filesystem allocated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectCost {
    /// One of its names, as the guest sees it.
    pub path: String,
    /// The guest that has this name.
    pub guest: String,
    /// Its name in the store.
    pub object: String,
    /// How many guests link it.
    pub guests: u64,
    /// How many names it has in these guests.
    pub names: u64,
    /// Its bytes, once.
    pub bytes: u64,
    /// How many bytes more its guests would need without it.
    pub saved_bytes: u64,
    /// Its bytes in the page cache, if the kernel tells.
    pub page_cache_bytes: Option<u64>,
}

/// At most `most` objects, those that save most bytes first.
#[must_use]
pub fn largest(survey: &Survey<'_>, most: usize) -> Vec<ObjectCost> {
    let mut saving: Vec<(u64, usize)> = survey
        .inodes
        .iter()
        .enumerate()
        .filter(|(_, inode)| inode.is_object)
        .map(|(at, inode)| {
            let others = survey.holders(inode).len() as u64 - 1;
            (inode.stamp.allocated * others, at)
        })
        .filter(|&(saved, _)| saved > 0)
        .collect();
    saving.sort_unstable_by_key(|&(saved, at)| (Reverse(saved), at));
    saving.truncate(most);
    let one = |(saved_bytes, at): (u64, usize)| {
        let inode = &survey.inodes[at];
        let names = survey.names(inode);
        let path = [b"/", survey.scan.path_of(&names[0]).as_slice()].concat();
        let guest = survey.guests[usize::from(survey.scan.guest_of(names[0].directory))];
        ObjectCost {
            path: Shown::bytes(path).to_string(),
            guest: Shown::bytes(guest.name.as_bytes()).to_string(),
            object: survey
                .objects
                .get(&inode.stamp.inode)
                .map_or_else(String::new, ToString::to_string),
            guests: survey.holders(inode).len() as u64,
            names: names.len() as u64,
            bytes: inode.stamp.allocated,
            saved_bytes,
            page_cache_bytes: survey.if_page_cache_known(inode.cached),
        }
    };
    saving.into_iter().map(one).collect()
}
