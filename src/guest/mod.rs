//! Guests and stores as open directories, and whether they lie on the host as they should.
//!
//! ```text
//! /vservers/          one filesystem, one mount
//!   .hash/            its store: in no vdir, and no vdir in it
//!   web/  mail/       vdirs: none in another, none named twice, none the host's own /
//! ```
//!
//! Everything is decided on descriptors, by device and inode numbers; a path is only ever shown.
//! Whether one directory lies in another is found by climbing `..` up to the root. On one mount
//! that climb meets every directory that holds it, however it was reached; and since a guest and
//! its store must share a mount, no bind mount can hide that one holds the other.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, StatxFlags};
use rustix::io::Errno;
use thiserror::Error;
use vhashify_sys::call_error::{advice, reason};
use vhashify_sys::resolve;
use vhashify_sys::shown::Shown;

/// A guest whose root directory is open.
#[derive(Debug)]
pub struct Guest {
    /// Its name.
    pub name: OsString,
    /// The path of its root directory, absolute and without symbolic links; for messages.
    pub vdir: PathBuf,
    /// Its root directory.
    pub root: OwnedFd,
    /// The device of the root directory (`st_dev`).
    pub device: u64,
    /// The inode number of the root directory.
    pub inode: u64,
    /// The mount through which it was opened.
    pub mount_id: u64,
}

/// A store's directory, open, before anything is known of what it holds.
#[derive(Debug)]
pub struct StoreLocation {
    /// Its path, absolute and without symbolic links; for messages.
    pub path: PathBuf,
    /// The directory.
    pub directory: OwnedFd,
    /// Its device (`st_dev`).
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
    /// The mount through which it was opened.
    pub mount_id: u64,
}

/// Why guests and stores cannot be used as they lie.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuestError {
    /// A vdir cannot be opened.
    #[error(
        "the vdir {} cannot be opened: {}{}",
        Shown::path(path),
        reason(source),
        advice(source)
    )]
    Vdir {
        /// The vdir.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A store cannot be opened.
    #[error(
        "the store {} cannot be opened: {}{}",
        Shown::path(path),
        reason(source),
        advice(source)
    )]
    Store {
        /// The store.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory above a vdir or a store cannot be looked at.
    #[error(
        "the directories above {} cannot be looked at: {}{}",
        Shown::path(path),
        reason(source),
        advice(source)
    )]
    Above {
        /// The vdir or store.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A vdir is the host's root directory.
    #[error("the vdir {} of the guest {} is the host's root directory; point its vdir to a directory of its own", Shown::path(vdir), Shown::bytes(name.as_bytes()))]
    HostRoot {
        /// The guest.
        name: OsString,
        /// Its vdir.
        vdir: PathBuf,
    },
    /// Two guests have one vdir.
    #[error("the guests {} and {} have the same vdir {}; point one of them to a directory of its own, or leave it out", Shown::bytes(first.as_bytes()), Shown::bytes(second.as_bytes()), Shown::path(vdir))]
    SameVdir {
        /// A guest.
        first: OsString,
        /// The other.
        second: OsString,
        /// The vdir of both.
        vdir: PathBuf,
    },
    /// A vdir lies in another.
    #[error("the vdir {inner} lies in the vdir {outer}; move {inner} out of it, or leave one of the two guests out", inner = Shown::path(inner), outer = Shown::path(outer))]
    NestedVdir {
        /// The vdir inside.
        inner: PathBuf,
        /// The vdir that holds it.
        outer: PathBuf,
    },
    /// A vdir lies in a store.
    #[error("the vdir {vdir} lies in the store {store}, which is for shared files only; move the vdir out of it, or name another store", vdir = Shown::path(vdir), store = Shown::path(store))]
    VdirInStore {
        /// The vdir.
        vdir: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// A store lies in a vdir, or is one.
    #[error(
        "the store {} lies in the vdir {}, where the guest could reach the files of others; put the store beside the vdirs",
        Shown::path(store),
        Shown::path(vdir)
    )]
    StoreInVdir {
        /// The store.
        store: PathBuf,
        /// The vdir.
        vdir: PathBuf,
    },
    /// Two stores are on one filesystem.
    #[error(
        "the stores {} and {} are on one filesystem, which takes one store; leave one of them out",
        Shown::path(first),
        Shown::path(second)
    )]
    StoresOnOneDevice {
        /// A store.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// No store is on the filesystem of a vdir.
    #[error(
        "the vdir {} is on a filesystem without a store ({}); make a store on that filesystem, and link it in apps/vunify/hash or name it with --destination",
        Shown::path(vdir),
        told(stores)
    )]
    NoStore {
        /// The vdir.
        vdir: PathBuf,
        /// The stores that there are, on other filesystems.
        stores: Vec<PathBuf>,
    },
    /// A guest and one of its reference guests are on two filesystems.
    #[error("the reference guest {} ({}) is on another filesystem than {}, and files can be shared on one only; move one of the two, or remove the link to it (apps/vunify/refserver.*)", Shown::bytes(name.as_bytes()), Shown::path(vdir), Shown::path(of))]
    ReferenceElsewhere {
        /// The reference guest.
        name: OsString,
        /// Its vdir.
        vdir: PathBuf,
        /// The vdir of the guest that has it.
        of: PathBuf,
    },
    /// A vdir and the store of its filesystem are reached through two mounts.
    #[error(
        "the vdir {} and the store {} are on one filesystem but on two mounts, and no file can be linked from one to the other; name both by paths below the same mount",
        Shown::path(vdir),
        Shown::path(store)
    )]
    OtherMount {
        /// The vdir.
        vdir: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// A store is on a filesystem that is mounted read-only.
    #[error(
        "the store {0} is on a read-only filesystem; mount it for writing (mount -o remount,rw \"$(findmnt -no TARGET -T {0})\")",
        Shown::path(store)
    )]
    ReadOnly {
        /// The store.
        store: PathBuf,
    },
}

impl Guest {
    /// Opens the root directory of the guest `name`. `vdir` may be a link.
    ///
    /// # Errors
    /// [`GuestError::Vdir`] when it is missing, is no directory, or may not be read.
    pub fn open(name: &OsStr, vdir: &Path) -> Result<Self, GuestError> {
        let (vdir, root, place) = open_directory(vdir).map_err(|source| GuestError::Vdir {
            path: vdir.to_path_buf(),
            source,
        })?;
        Ok(Self::new(name, vdir, root, place))
    }

    /// The guest `name` whose root directory is open already, for reading.
    ///
    /// # Errors
    /// [`GuestError::Vdir`] when it cannot be looked at.
    pub fn at(name: &OsStr, root: OwnedFd) -> Result<Self, GuestError> {
        let look = || -> io::Result<(PathBuf, Place)> {
            let vdir = OsString::from_vec(resolve::path_of(root.as_fd())?);
            Ok((vdir.into(), Place::of(root.as_fd())?))
        };
        match look() {
            Ok((vdir, place)) => Ok(Self::new(name, vdir, root, place)),
            Err(source) => Err(GuestError::Vdir {
                path: name.into(),
                source,
            }),
        }
    }

    fn new(name: &OsStr, vdir: PathBuf, root: OwnedFd, place: Place) -> Self {
        let Place {
            device,
            inode,
            mount_id,
        } = place;
        Self {
            name: name.to_os_string(),
            vdir,
            root,
            device,
            inode,
            mount_id,
        }
    }

    /// The host's path of something below the vdir; for messages.
    #[must_use]
    pub fn path_of(&self, below: &[u8]) -> PathBuf {
        if below.is_empty() {
            self.vdir.clone()
        } else {
            self.vdir.join(OsStr::from_bytes(below))
        }
    }

    fn place(&self) -> Place {
        Place {
            device: self.device,
            inode: self.inode,
            mount_id: self.mount_id,
        }
    }
}

impl StoreLocation {
    /// Opens the store's directory. `path` may be a link.
    ///
    /// # Errors
    /// [`GuestError::Store`] when it is missing, is no directory, or may not be read.
    pub fn open(path: &Path) -> Result<Self, GuestError> {
        let (path, directory, place) =
            open_directory(path).map_err(|source| GuestError::Store {
                path: path.to_path_buf(),
                source,
            })?;
        let Place {
            device,
            inode,
            mount_id,
        } = place;
        Ok(Self {
            path,
            directory,
            device,
            inode,
            mount_id,
        })
    }

    fn place(&self) -> Place {
        Place {
            device: self.device,
            inode: self.inode,
            mount_id: self.mount_id,
        }
    }
}

/// Checks a set of guests and their stores before anything is touched.
///
/// Returns, for each guest, the index of its store. Each directory must be given once: the caller
/// drops repetitions of a store that several guests name. A store that no guest uses must lie as
/// the others do, but may be on a read-only filesystem.
///
/// # Errors
/// The first fault found, as [`GuestError`] lists them.
pub fn check_layout(guests: &[Guest], stores: &[StoreLocation]) -> Result<Vec<usize>, GuestError> {
    let vdirs = check_vdirs(guests)?;
    check_stores(stores)?;
    check_nesting(guests, &vdirs, stores)?;
    let chosen = guests
        .iter()
        .map(|guest| store_of(guest, stores))
        .collect::<Result<Vec<usize>, GuestError>>()?;
    for (index, store) in stores.iter().enumerate() {
        if chosen.contains(&index) {
            check_writable(store)?;
        }
    }
    Ok(chosen)
}

/// Checks that a guest, the first of `guests`, is on one filesystem with its reference guests, the others.
///
/// # Errors
/// [`GuestError::ReferenceElsewhere`].
pub fn check_references(guests: &[Guest]) -> Result<(), GuestError> {
    let [first, references @ ..] = guests else {
        return Ok(());
    };
    match references.iter().find(|one| one.device != first.device) {
        None => Ok(()),
        Some(one) => Err(GuestError::ReferenceElsewhere {
            name: one.name.clone(),
            vdir: one.vdir.clone(),
            of: first.vdir.clone(),
        }),
    }
}

/// Where a directory is: the inode, and the mount through which it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
    mount_id: u64,
}

impl Place {
    fn of(directory: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let found = rustix::fs::fstat(directory)?;
        let seen = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        if seen.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
            // Linux before 5.8 answers without the mount.
            return Err(Errno::NOSYS);
        }
        Ok(Self {
            device: found.st_dev,
            inode: found.st_ino,
            mount_id: seen.stx_mnt_id,
        })
    }

    /// What makes it the same directory, whatever it is seen through.
    fn directory(self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

fn open_directory(path: &Path) -> io::Result<(PathBuf, OwnedFd, Place)> {
    let path = fs::canonicalize(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(&path, flags, Mode::empty())?;
    let place = Place::of(directory.as_fd())?;
    Ok((path, directory, place))
}

/// Which guest has which directory, each its own and none the host's.
fn check_vdirs(guests: &[Guest]) -> Result<HashMap<(u64, u64), &Guest>, GuestError> {
    let host = open_directory(Path::new("/"))
        .map_err(|source| GuestError::Above {
            path: PathBuf::from("/"),
            source,
        })?
        .2;
    let mut vdirs = HashMap::with_capacity(guests.len());
    for guest in guests {
        let place = guest.place().directory();
        if place == host.directory() {
            let (name, vdir) = (guest.name.clone(), guest.vdir.clone());
            return Err(GuestError::HostRoot { name, vdir });
        }
        if let Some(first) = vdirs.insert(place, guest) {
            return Err(GuestError::SameVdir {
                first: first.name.clone(),
                second: guest.name.clone(),
                vdir: guest.vdir.clone(),
            });
        }
    }
    Ok(vdirs)
}

fn check_stores(stores: &[StoreLocation]) -> Result<(), GuestError> {
    let mut devices = HashMap::with_capacity(stores.len());
    for store in stores {
        if let Some(first) = devices.insert(store.device, store) {
            let (first, second) = (first.path.clone(), store.path.clone());
            return Err(GuestError::StoresOnOneDevice { first, second });
        }
    }
    Ok(())
}

fn check_nesting(
    guests: &[Guest],
    vdirs: &HashMap<(u64, u64), &Guest>,
    stores: &[StoreLocation],
) -> Result<(), GuestError> {
    for store in stores {
        let mut places = above(&store.path, store.directory.as_fd(), store.place())?;
        places.insert(0, store.place());
        if let Some(guest) = places
            .iter()
            .find_map(|place| vdirs.get(&place.directory()))
        {
            let (store, vdir) = (store.path.clone(), guest.vdir.clone());
            return Err(GuestError::StoreInVdir { store, vdir });
        }
    }
    for guest in guests {
        for place in above(&guest.vdir, guest.root.as_fd(), guest.place())? {
            if let Some(outer) = vdirs.get(&place.directory()) {
                let (inner, outer) = (guest.vdir.clone(), outer.vdir.clone());
                return Err(GuestError::NestedVdir { inner, outer });
            }
            let holds = |store: &&StoreLocation| store.place().directory() == place.directory();
            if let Some(store) = stores.iter().find(holds) {
                let (vdir, store) = (guest.vdir.clone(), store.path.clone());
                return Err(GuestError::VdirInStore { vdir, store });
            }
        }
    }
    Ok(())
}

/// The directories above `directory`, the nearest first, the process's root last.
fn above(path: &Path, directory: BorrowedFd<'_>, start: Place) -> Result<Vec<Place>, GuestError> {
    let climb = || -> rustix::io::Result<Vec<Place>> {
        let up = |from: BorrowedFd<'_>| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(from, c"..", flags, Mode::empty())
        };
        let mut places = Vec::new();
        let (mut last, mut parent) = (start, up(directory)?);
        loop {
            let place = Place::of(parent.as_fd())?;
            // Only the root is its own parent. The mount counts: after `mount --bind /a /a/b` the
            // parent of /a/b is the same inode, on another mount.
            if place == last {
                return Ok(places);
            }
            places.push(place);
            last = place;
            parent = up(parent.as_fd())?;
        }
    };
    climb().map_err(|error| GuestError::Above {
        path: path.to_path_buf(),
        source: error.into(),
    })
}

/// The index of the store on the guest's filesystem.
fn store_of(guest: &Guest, stores: &[StoreLocation]) -> Result<usize, GuestError> {
    let mut numbered = stores.iter().enumerate();
    let found = numbered.find(|(_, store)| store.device == guest.device);
    let Some((index, store)) = found else {
        let stores = stores.iter().map(|store| store.path.clone()).collect();
        return Err(GuestError::NoStore {
            vdir: guest.vdir.clone(),
            stores,
        });
    };
    // link(2) between two mounts of one filesystem fails with EXDEV.
    if store.mount_id != guest.mount_id {
        let (vdir, store) = (guest.vdir.clone(), store.path.clone());
        return Err(GuestError::OtherMount { vdir, store });
    }
    Ok(index)
}

fn check_writable(store: &StoreLocation) -> Result<(), GuestError> {
    let path = &store.path;
    let filesystem = rustix::fs::fstatvfs(&store.directory).map_err(|error| GuestError::Store {
        path: path.clone(),
        source: error.into(),
    })?;
    if filesystem.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(GuestError::ReadOnly {
            store: path.clone(),
        });
    }
    Ok(())
}

/// The stores of a message.
fn told(stores: &[PathBuf]) -> String {
    match stores {
        [] => "there is no store at all".to_owned(),
        [one] => format!("the store is {}", Shown::path(one)),
        many => {
            let many: Vec<String> = many
                .iter()
                .map(|store| Shown::path(store).to_string())
                .collect();
            format!("the stores are {}", many.join(", "))
        }
    }
}
