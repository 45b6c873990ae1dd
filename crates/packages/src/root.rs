//! Opening a hostile guest's files without leaving the guest.
//!
//! `openat2(2)` resolves every name with the guest's directory as root, symbolic links included:
//! `var/lib/rpm` may well be a link, absolute or with `..`, and still ends inside. Magic links and
//! other file systems are refused. A file opens without blocking, so that a FIFO cannot hold the
//! run, and must turn out to be regular.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use vhashify_sys::procfs::descriptor_path;

use crate::PackageError;

/// No file of a package database is larger; rpm's, the largest, stays below 300 MiB.
const LARGEST_FILE: u64 = 512 << 20;
/// All files of one guest together, so that a thousand large ones cannot stand in for one.
const LARGEST_GUEST: u64 = 2 << 30;
/// The most entries a directory of a database may have.
const MOST_ENTRIES: usize = 100_000;

/// A guest's root.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    root: BorrowedFd<'a>,
    path: &'a Path,
    budget: Cell<u64>,
}

/// A file of the guest, whole in memory.
#[derive(Debug)]
pub(super) struct GuestFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) stamp: Stamp,
}

/// What changes with every write, so that two equal stamps around a read mean a quiet file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Device and inode; databases are reachable by several names.
    pub(super) identity: (u64, u64),
    changed: (i64, i64),
    length: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            identity: (metadata.dev(), metadata.ino()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
        }
    }
}

impl<'a> Guest<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, path: &'a Path) -> Self {
        Self {
            root,
            path,
            budget: Cell::new(LARGEST_GUEST),
        }
    }

    /// The path of `name` as messages give it.
    pub(super) fn name(&self, name: &Path) -> PathBuf {
        self.path.join(name)
    }

    /// Reads the regular file at `name`, relative to the root; `None` if there is none.
    pub(super) fn read(&self, name: &Path) -> Result<Option<GuestFile>, PackageError> {
        let Some(file) = self.open(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?
        else {
            return Ok(None);
        };
        let path = self.path.join(name);
        let io = |call| {
            let path = &path;
            move |source| PackageError::Io {
                call,
                path: path.clone(),
                source,
            }
        };
        let file = File::from(file);
        let metadata = file.metadata().map_err(io("fstat"))?;
        if !metadata.is_file() {
            return Err(PackageError::NotAFile { path });
        }
        let limit = LARGEST_FILE.min(self.budget.get());
        let mut bytes = Vec::new();
        if metadata.len() <= limit {
            // The size is only a hint for the first allocation; the limit holds however the file
            // grows meanwhile.
            bytes.reserve(usize::try_from(metadata.len()).unwrap_or(0));
            (&file)
                .take(limit + 1)
                .read_to_end(&mut bytes)
                .map_err(io("read"))?;
        }
        let length = (bytes.len() as u64).max(metadata.len());
        if length > limit {
            return Err(PackageError::TooLarge {
                path,
                limit,
                unit: "bytes",
            });
        }
        self.budget.set(self.budget.get() - bytes.len() as u64);
        Ok(Some(GuestFile {
            path,
            bytes,
            stamp: Stamp::of(&metadata),
        }))
    }

    /// The stamp of the file at `name`, to be compared with the one that it was read with.
    pub(super) fn stamp(&self, name: &Path) -> Result<Option<Stamp>, PackageError> {
        let Some(file) = self.open(name, OFlags::PATH)? else {
            return Ok(None);
        };
        let metadata = File::from(file)
            .metadata()
            .map_err(|source| PackageError::Io {
                call: "fstat",
                path: self.path.join(name),
                source,
            })?;
        Ok(Some(Stamp::of(&metadata)))
    }

    /// The names in the directory at `name`; none if there is no such directory.
    pub(super) fn list(&self, name: &Path) -> Result<Option<Vec<PathBuf>>, PackageError> {
        let Some(directory) = self.open(name, OFlags::RDONLY | OFlags::DIRECTORY)? else {
            return Ok(None);
        };
        let path = self.path.join(name);
        let io = |source: Errno| PackageError::Io {
            call: "getdents",
            path: path.clone(),
            source: source.into(),
        };
        let mut names = Vec::new();
        for entry in Dir::new(directory).map_err(io)? {
            let entry = entry.map_err(io)?;
            let file_name = entry.file_name().to_bytes();
            if matches!(file_name, b"." | b"..") {
                continue;
            }
            if names.len() == MOST_ENTRIES {
                let limit = MOST_ENTRIES as u64;
                return Err(PackageError::TooLarge {
                    path,
                    limit,
                    unit: "entries",
                });
            }
            names.push(name.join(OsStr::from_bytes(file_name)));
        }
        // Directory order is the file system's whim; messages and limits should not depend on it.
        names.sort();
        Ok(Some(names))
    }

    /// Where in the guest the file `path` really is, if a symbolic link leads there: merged `/usr`
    /// has packages name `/lib/x` and walkers meet `/usr/lib/x`.
    pub(super) fn real_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let relative = Path::new(OsStr::from_bytes(path)).strip_prefix("/").ok()?;
        // What cannot be resolved is not there to be unified either.
        let file = self.open(relative, OFlags::PATH).ok()??;
        let root = std::fs::read_link(descriptor_path(&self.root)).ok()?;
        let inside = std::fs::read_link(descriptor_path(&file)).ok()?;
        let inside = inside.strip_prefix(&root).ok()?.to_owned();
        let mut real = vec![b'/'];
        real.append(&mut inside.into_os_string().into_vec());
        (real != path).then_some(real)
    }

    fn open(&self, name: &Path, flags: OFlags) -> Result<Option<OwnedFd>, PackageError> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            let opened = rustix::fs::openat2(
                self.root,
                name,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            );
            match opened {
                Ok(file) => return Ok(Some(file)),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                // The kernel asks to try again when a rename elsewhere made `..` doubtful.
                Err(Errno::AGAIN | Errno::INTR) => {}
                // A FIFO without a writer opens; a socket, or a device without driver, does not.
                Err(Errno::NXIO | Errno::NODEV) => {
                    return Err(PackageError::NotAFile {
                        path: self.path.join(name),
                    });
                }
                Err(error) => {
                    return Err(PackageError::Io {
                        call: "openat2",
                        path: self.path.join(name),
                        source: io::Error::from(error),
                    });
                }
            }
        }
    }
}
