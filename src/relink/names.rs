//! Lists every name in a guest with its inode number, as the directories have it: without `statx(2)`.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::resolve;

use super::descent::{Place, each_placed_name};
use crate::guest::Guest;

/// A name in a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The path of its directory below the vdir.
    pub directory: Arc<[u8]>,
    /// The name.
    pub name: Vec<u8>,
}

impl Name {
    /// The name at the end of a path below the vdir.
    #[must_use]
    pub fn of(path: &[u8]) -> Self {
        let (directory, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        Self {
            directory: directory.into(),
            name: name.to_vec(),
        }
    }

    /// Whether it leads to `inode`.
    #[must_use]
    pub fn leads_to(&self, guest: &Guest, inode: u64) -> bool {
        resolve::open_directory(guest.root.as_fd(), &self.directory)
            .and_then(|directory| resolve::inode_of(directory.as_fd(), &self.name))
            == Ok(inode)
    }
}

/// `directory/name`, where the vdir itself is the empty path.
#[must_use]
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, name].join(b"/".as_slice())
    }
}

/// Calls `visit` with each name of the guest: the path of its directory below the vdir, the name,
/// and the inode number. It does not enter mounts in the guest.
///
/// # Errors
/// The first error of a directory ends the walk.
pub fn each_name(guest: &Guest, mut visit: impl FnMut(&[u8], &[u8], u64)) -> Result<(), Errno> {
    let visit = |place: &Place<'_>, name: &[u8], inode| visit(place.path(), name, inode);
    fault::at(Point::Walk, || each_placed_name(guest, visit))
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn a_path_is_a_directory_and_a_name() {
        for (path, directory, name) in [
            (&b"file"[..], &b""[..], &b"file"[..]),
            (b"usr/bin/sed", b"usr/bin", b"sed"),
        ] {
            let of = Name::of(path);
            assert_eq!((&*of.directory, &*of.name), (directory, name));
        }
    }
}
