//! Opens the files of a hostile guest, and none outside it.
//!
//! `openat2(2)` resolves every name with the guest's directory as root, symbolic links included: `var/lib/rpm` may be a
//! link, absolute or with `..`, and still ends inside. It refuses magic links and other filesystems. A file is opened
//! without blocking, so that a FIFO cannot stop the run, and must be regular.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use vhashify_sys::procfs::descriptor_path;

use crate::ReadError;

/// No file of a package database is larger; rpm's, the largest, stays below 300 MiB.
const LARGEST_FILE: u64 = 512 << 20;
/// All files of one guest together, so that a thousand large ones cannot stand in for one.
const LARGEST_GUEST: u64 = 2 << 30;
/// The most entries a directory of a database may have.
const MOST_ENTRIES: usize = 100_000;

/// A guest's root.
#[derive(Debug)]
pub(crate) struct Root<'a> {
    directory: BorrowedFd<'a>,
    path: &'a Path,
    budget: Cell<u64>,
}

/// A file of a database, whole in memory.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    pub(crate) version: Version,
}

/// Changes with every write: if it is equal before and after a read, no process wrote meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    /// Device and inode number, to know a database again under another path.
    pub(crate) inode: (u64, u64),
    changed: (i64, i64),
    length: u64,
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
        }
    }
}

impl<'a> Root<'a> {
    pub(crate) fn new(directory: BorrowedFd<'a>, path: &'a Path) -> Self {
        Self {
            directory,
            path,
            budget: Cell::new(LARGEST_GUEST),
        }
    }

    /// The path of `name` on the host, for messages.
    pub(crate) fn host_path(&self, name: &Path) -> PathBuf {
        self.path.join(name)
    }

    /// Reads the regular file at `name`, relative to the root; `None` if there is none.
    pub(crate) fn read(&self, name: &Path) -> Result<Option<DatabaseFile>, ReadError> {
        let Some(file) = self.open(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?
        else {
            return Ok(None);
        };
        let path = self.path.join(name);
        let file = File::from(file);
        let metadata = file
            .metadata()
            .map_err(ReadError::of_call("fstat", &path))?;
        if !metadata.is_file() {
            return Err(ReadError::NotAFile { path });
        }
        let limit = LARGEST_FILE.min(self.budget.get());
        let mut bytes = Vec::new();
        if metadata.len() <= limit {
            // The size only hints at the first allocation; the limit holds even if the file grows meanwhile.
            bytes.reserve(usize::try_from(metadata.len()).unwrap_or(0));
            (&file)
                .take(limit + 1)
                .read_to_end(&mut bytes)
                .map_err(ReadError::of_call("read", &path))?;
        }
        let length = (bytes.len() as u64).max(metadata.len());
        if length > limit {
            return Err(ReadError::TooLarge {
                path,
                limit,
                unit: "bytes",
            });
        }
        self.budget.set(self.budget.get() - bytes.len() as u64);
        Ok(Some(DatabaseFile {
            path,
            bytes,
            version: Version::of(&metadata),
        }))
    }

    /// The version of the file at `name` now.
    pub(crate) fn version(&self, name: &Path) -> Result<Option<Version>, ReadError> {
        let Some(file) = self.open(name, OFlags::PATH)? else {
            return Ok(None);
        };
        let metadata = File::from(file)
            .metadata()
            .map_err(ReadError::of_call("fstat", &self.path.join(name)))?;
        Ok(Some(Version::of(&metadata)))
    }

    /// The names in the directory at `name`; none if there is no such directory.
    pub(crate) fn list(&self, name: &Path) -> Result<Option<Vec<PathBuf>>, ReadError> {
        let Some(directory) = self.open(name, OFlags::RDONLY | OFlags::DIRECTORY)? else {
            return Ok(None);
        };
        let path = self.path.join(name);
        let mut names = Vec::new();
        for entry in Dir::new(directory).map_err(ReadError::of_call("getdents", &path))? {
            let entry = entry.map_err(ReadError::of_call("getdents", &path))?;
            let file_name = entry.file_name().to_bytes();
            if matches!(file_name, b"." | b"..") {
                continue;
            }
            if names.len() == MOST_ENTRIES {
                let limit = MOST_ENTRIES as u64;
                return Err(ReadError::TooLarge {
                    path,
                    limit,
                    unit: "entries",
                });
            }
            names.push(name.join(OsStr::from_bytes(file_name)));
        }
        // Messages and limits must not depend on the filesystem's order.
        names.sort();
        Ok(Some(names))
    }

    /// The path of the file that `path` leads to, if that is another one: on merged `/usr` packages name `/lib/x`, and a
    /// walk meets `/usr/lib/x`.
    pub(crate) fn real_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let relative = Path::new(OsStr::from_bytes(path)).strip_prefix("/").ok()?;
        // A path that does not resolve names nothing that could be unified.
        let file = self.open(relative, OFlags::PATH).ok()??;
        let root = std::fs::read_link(descriptor_path(&self.directory)).ok()?;
        let inside = std::fs::read_link(descriptor_path(&file)).ok()?;
        let inside = inside.strip_prefix(&root).ok()?.to_owned();
        let mut real = vec![b'/'];
        real.append(&mut inside.into_os_string().into_vec());
        (real != path).then_some(real)
    }

    fn open(&self, name: &Path, flags: OFlags) -> Result<Option<OwnedFd>, ReadError> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            let opened = rustix::fs::openat2(
                self.directory,
                name,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            );
            match opened {
                Ok(file) => return Ok(Some(file)),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                // EAGAIN: a rename elsewhere has made the kernel's check of `..` uncertain.
                Err(Errno::AGAIN | Errno::INTR) => {}
                // A FIFO without a writer opens; a socket, or a device without driver, does not.
                Err(Errno::NXIO | Errno::NODEV) => {
                    return Err(ReadError::NotAFile {
                        path: self.path.join(name),
                    });
                }
                Err(error) => {
                    return Err(ReadError::of_call("openat2", &self.path.join(name))(error));
                }
            }
        }
    }
}
