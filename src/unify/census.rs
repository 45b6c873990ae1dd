//! Finds out who links an object in places that the scan does not see.
//!
//! A guest may have given an object another name in a directory that is excluded. Were the name
//! that the scan sees removed later, the guest would look as if it had no link to this object, and
//! a second file of the guest could be linked to it: two names would share an inode that did not
//! before (invariant 3). The link count tells when there are names that the scan did not see; then
//! the excluded directories are walked, too, but only for inode numbers, which costs no `statx`.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use crate::guest::Guest;
use crate::scan::GuestId;
use crate::sys::beneath;

/// Which guests have any name of the inodes in question.
#[derive(Debug, Default)]
pub struct Census {
    holders: HashMap<u64, Vec<GuestId>>,
    /// Guests of which a directory could not be read: they may have a name of anything.
    unknown: Vec<GuestId>,
}

impl Census {
    /// Walks all of `guests` for names of the inodes in `wanted`.
    #[must_use]
    pub fn take(guests: &[&Guest], wanted: &HashSet<u64>) -> Self {
        let mut census = Self::default();
        for (number, guest) in guests.iter().enumerate() {
            let number = GuestId::try_from(number).unwrap_or(GuestId::MAX);
            let mut found = HashSet::new();
            let mut directories = vec![Vec::new()];
            while let Some(path) = directories.pop() {
                if read(guest, &path, wanted, &mut found, &mut directories).is_err() {
                    census.unknown.push(number);
                    break;
                }
            }
            for inode in found {
                census.holders.entry(inode).or_default().push(number);
            }
        }
        census
    }

    /// The guests that have, or may have, a name of `inode`.
    pub fn holders(&self, inode: u64) -> impl Iterator<Item = GuestId> {
        let known = self.holders.get(&inode).map_or(&[][..], Vec::as_slice);
        known.iter().chain(&self.unknown).copied()
    }
}

fn read(
    guest: &Guest,
    path: &[u8],
    wanted: &HashSet<u64>,
    found: &mut HashSet<u64>,
    directories: &mut Vec<Vec<u8>>,
) -> Result<(), Errno> {
    let directory = match beneath::open_directory(guest.root.as_fd(), path) {
        Ok(directory) => directory,
        // Gone meanwhile, or a mount point: names below it are on another mount.
        Err(Errno::NOENT | Errno::XDEV | Errno::LOOP | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    for entry in Dir::new(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if wanted.contains(&entry.ino()) {
            found.insert(entry.ino());
        }
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            directories.push(if path.is_empty() {
                name.to_vec()
            } else {
                [path, name].join(b"/".as_slice())
            });
        }
    }
    Ok(())
}
