//! Every name in a guest with the number of its inode, which a directory tells without `statx(2)`.

use std::os::fd::AsFd;

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use crate::guest::Guest;
use crate::sys::beneath;
use crate::sys::fault::{self, Point};

/// Calls `visit` with each name of the guest: the path of its directory below the vdir, the name,
/// and the inode number. What is mounted in the guest is not entered.
///
/// # Errors
/// The first directory that cannot be read ends it.
pub fn each_name(guest: &Guest, visit: impl FnMut(&[u8], &[u8], u64)) -> Result<(), Errno> {
    fault::at(Point::Walk, || walk(guest, visit))
}

fn walk(guest: &Guest, mut visit: impl FnMut(&[u8], &[u8], u64)) -> Result<(), Errno> {
    let mut directories = vec![Vec::new()];
    while let Some(path) = directories.pop() {
        let directory = match beneath::open_directory(guest.root.as_fd(), &path) {
            Ok(directory) => directory,
            // Gone meanwhile, or a mount point: names below it are on another mount.
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
                directories.push(if path.is_empty() {
                    name.to_vec()
                } else {
                    [&path, name].join(b"/".as_slice())
                });
            }
        }
    }
    Ok(())
}
