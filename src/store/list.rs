//! Lists a store: its directories in parallel, and nothing of an object but its name and inode number,
//! which cost no look at the inode.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::ObjectName;
use crate::error::Error;
use crate::sys::beneath;
use crate::sys::stamp::Stamp;

/// Directories from the store's own down to those of objects: `STORE/4f/a7`.
const LEVELS: u32 = 3;

/// Bytes asked of `getdents64(2)` at once.
const BUFFER: usize = 32 << 10;

/// An object as the store's directories tell of it.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// Its name.
    pub name: ObjectName,
    /// Its inode number.
    pub inode: u64,
}

/// Objects, and the paths of what is none.
type Found = (Vec<Listed>, Vec<PathBuf>);

/// Lists what is below `store`, which is open and stands at `path`.
///
/// # Errors
/// A directory that cannot be read.
pub fn list(store: BorrowedFd<'_>, path: &Path) -> Result<Found, Error> {
    // A description of its own, whose position in the directory nobody else moves.
    let store = beneath::open_directory(store, b"")
        .map_err(|errno| Error::call("openat2", path, errno.into()))?;
    below(&store, path, LEVELS)
}

fn below(directory: &OwnedFd, path: &Path, levels: u32) -> Result<Found, Error> {
    let ((objects, strangers), directories) =
        read(directory, path).map_err(|errno| Error::call("getdents64", path, errno.into()))?;
    if levels == 1 {
        return Ok((objects, strangers));
    }
    let each = directories.into_par_iter().map(|name| {
        let path = path.join(OsStr::from_bytes(&name));
        match beneath::open_directory(directory.as_fd(), &name) {
            Ok(directory) => below(&directory, &path, levels - 1),
            // Gone since its parent was read.
            Err(Errno::NOENT) => Ok(Found::default()),
            Err(errno) => Err(Error::call("openat2", &path, errno.into())),
        }
    });
    let both = |(mut objects, mut strangers): Found, (more, stranger): Found| {
        objects.extend(more);
        strangers.extend(stranger);
        Ok((objects, strangers))
    };
    let (mut all, mut none) = each.try_reduce(Found::default, both)?;
    all.extend(objects);
    none.extend(strangers);
    Ok((all, none))
}

/// Reads one directory: what it holds, and the names of directories in it.
fn read(directory: &OwnedFd, path: &Path) -> Result<(Found, Vec<Vec<u8>>), Errno> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(directory, &mut buffer);
    let (mut found, mut directories) = (Found::default(), Vec::new());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let file_type = match entry.file_type() {
            // Old filesystems do not say.
            FileType::Unknown => match Stamp::at(directory.as_fd(), name) {
                Ok(stamp) => FileType::from_raw_mode(stamp.mode.into()),
                Err(_) => continue,
            },
            listed => listed,
        };
        match (file_type, ObjectName::parse(name)) {
            (FileType::Directory, _) if name == b"." || name == b".." => {}
            (FileType::Directory, _) => directories.push(name.to_vec()),
            (FileType::RegularFile, Some(name)) => found.0.push(Listed {
                name,
                inode: entry.ino(),
            }),
            _ => found.1.push(path.join(OsStr::from_bytes(name))),
        }
    }
    Ok((found, directories))
}
