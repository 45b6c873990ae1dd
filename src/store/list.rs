//! Lists a store, its directories in parallel. The directory entries give the name and the inode number of each
//! object without a `statx`; a [`Gather`] that needs more calls it while the directory is open.

use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;
use vhashify_sys::call_error::{Call as _, CallError};
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;

use super::{ObjectName, StoreError};

/// Directories from the store's own down to those of objects: `STORE/4f/a7`.
const LEVELS: u32 = 3;

/// Bytes asked of `getdents64(2)` at once.
const BUFFER: usize = 32 << 10;

/// An object as its directory entry tells it.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// Its name.
    pub name: ObjectName,
    /// Its inode number.
    pub inode: u64,
}

/// Collects what one thread sees of objects while the store is listed; the threads' results are merged.
pub trait Gather: Default + Send {
    /// Adds the object whose name in the open `directory` is `file`.
    fn object(&mut self, directory: BorrowedFd<'_>, file: &CStr, object: Listed);

    /// Adds what another thread gathered.
    fn merge(&mut self, other: Self);
}

impl Gather for Vec<Listed> {
    fn object(&mut self, _directory: BorrowedFd<'_>, _file: &CStr, object: Listed) {
        self.push(object);
    }

    fn merge(&mut self, mut other: Self) {
        self.append(&mut other);
    }
}

/// Objects with the stamp of each. Leaves out an object that vanished meanwhile, or whose `statx` fails.
impl Gather for Vec<(ObjectName, Stamp)> {
    fn object(&mut self, directory: BorrowedFd<'_>, file: &CStr, object: Listed) {
        if let Ok(stamp) = Stamp::at(directory, file) {
            self.push((object.name, stamp));
        }
    }

    fn merge(&mut self, mut other: Self) {
        self.append(&mut other);
    }
}

/// Lists `store`, whose path is `path`: what was gathered of objects, and the paths of entries that are no
/// objects.
///
/// # Errors
/// A directory that cannot be read.
pub fn list<G: Gather>(
    store: BorrowedFd<'_>,
    path: &Path,
) -> Result<(G, Vec<PathBuf>), StoreError> {
    // A file description of its own: the offset of getdents64 belongs to the description.
    let store = resolve::open_directory(store, b"").call("openat2", path)?;
    below(&store, path, LEVELS)
}

fn below<G: Gather>(
    directory: &OwnedFd,
    path: &Path,
    levels: u32,
) -> Result<(G, Vec<PathBuf>), StoreError> {
    let mut gathered = G::default();
    let (mut strangers, directories) =
        read(directory, path, &mut gathered).call("getdents64", path)?;
    if levels == 1 {
        return Ok((gathered, strangers));
    }
    let each = directories.into_par_iter().map(|name| {
        let path = path.join(OsStr::from_bytes(&name));
        match resolve::open_directory(directory.as_fd(), &name) {
            Ok(directory) => below(&directory, &path, levels - 1),
            // Gone since its parent was read.
            Err(Errno::NOENT) => Ok((G::default(), Vec::new())),
            Err(errno) => Err(CallError::new("openat2", &path, errno).into()),
        }
    });
    let both = |(mut all, mut strangers): (G, Vec<PathBuf>), (more, mut stranger)| {
        all.merge(more);
        strangers.append(&mut stranger);
        Ok((all, strangers))
    };
    let (further, mut none) = each.try_reduce(Default::default, both)?;
    gathered.merge(further);
    strangers.append(&mut none);
    Ok((gathered, strangers))
}

/// Reads one directory: the paths of entries that are no objects, and the names of its subdirectories.
fn read<G: Gather>(
    directory: &OwnedFd,
    path: &Path,
    gathered: &mut G,
) -> Result<(Vec<PathBuf>, Vec<Vec<u8>>), Errno> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(directory, &mut buffer);
    let (mut strangers, mut directories) = (Vec::new(), Vec::new());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let file_type = match entry.file_type() {
            // Old filesystems give no type here; statx does.
            FileType::Unknown => match Stamp::at(directory.as_fd(), name) {
                Ok(stamp) => FileType::from_raw_mode(stamp.mode.into()),
                Err(_) => continue,
            },
            listed => listed,
        };
        match (file_type, ObjectName::parse(name)) {
            (FileType::Directory, _) if name == b"." || name == b".." => {}
            (FileType::Directory, _) => directories.push(name.to_vec()),
            (FileType::RegularFile, Some(object)) => {
                let inode = entry.ino();
                let listed = Listed {
                    name: object,
                    inode,
                };
                gathered.object(directory.as_fd(), entry.file_name(), listed);
            }
            _ => strangers.push(path.join(OsStr::from_bytes(name))),
        }
    }
    Ok((strangers, directories))
}
