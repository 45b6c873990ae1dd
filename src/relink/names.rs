//! Lists every name in a guest with its inode number, as the directories have it: without `statx(2)`.

use std::os::fd::AsFd;

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;
use vhashify_sys::fault::{self, Point};
use vhashify_sys::resolve;

use crate::guest::Guest;

/// A name in a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The path of its directory below the vdir.
    pub directory: Vec<u8>,
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
            directory: directory.to_vec(),
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
pub fn each_name(guest: &Guest, visit: impl FnMut(&[u8], &[u8], u64)) -> Result<(), Errno> {
    fault::at(Point::Walk, || walk(guest, visit))
}

fn walk(guest: &Guest, mut visit: impl FnMut(&[u8], &[u8], u64)) -> Result<(), Errno> {
    let mut directories = vec![Vec::new()];
    while let Some(path) = directories.pop() {
        let directory = match resolve::open_directory(guest.root.as_fd(), &path) {
            Ok(directory) => directory,
            // The guest has removed it meanwhile, or it is a mount point: names below it are on another mount.
            Err(Errno::NOENT | Errno::XDEV | Errno::LOOP | Errno::NOTDIR) => continue,
            Err(errno) => return Err(errno),
        };
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            visit(&path, name, entry.ino());
            if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                directories.push(join(&path, name));
            }
        }
    }
    Ok(())
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
