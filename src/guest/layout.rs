//! Whether guests and their stores lie on the host as they should.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};

use vhashify_sys::filesystem_kind::FilesystemKind;

use super::error::GuestError;
use super::mounted_inode::{MountedInode, open_directory};
use super::{Guest, StoreLocation};

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
    check_filesystems(guests, stores)?;
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

/// Maps each vdir, by device and inode number, to its guest; each must be another one, and none the host's `/`.
fn check_vdirs(guests: &[Guest]) -> Result<HashMap<(u64, u64), &Guest>, GuestError> {
    let host = open_directory(Path::new("/"))
        .map_err(|source| GuestError::Above {
            path: PathBuf::from("/"),
            source,
        })?
        .2;
    let mut vdirs = HashMap::with_capacity(guests.len());
    for guest in guests {
        let root = guest.mounted_inode().device_and_inode();
        if root == host.device_and_inode() {
            let (name, vdir) = (guest.name.clone(), guest.vdir.clone());
            return Err(GuestError::HostRoot { name, vdir });
        }
        if let Some(first) = vdirs.insert(root, guest) {
            return Err(GuestError::SameVdir {
                first: first.name.clone(),
                second: guest.name.clone(),
                vdir: guest.vdir.clone(),
            });
        }
    }
    Ok(vdirs)
}

/// Refuses overlays. A file of a lower layer gets another inode when it is first linked or changed (`ovl_copy_up` in
/// `fs/overlayfs/copy_up.c`). Its other names keep the old one, unless the overlay has `index=on`, and its number may
/// change. A replacement tells by the inode what a name leads to, and would part link groups there.
fn check_filesystems(guests: &[Guest], stores: &[StoreLocation]) -> Result<(), GuestError> {
    for guest in guests {
        let (path, root) = (&guest.vdir, guest.root.as_fd());
        refuse_overlay(path, root, |path, source| GuestError::Vdir { path, source })?;
    }
    for store in stores {
        let (path, directory) = (&store.path, store.directory.as_fd());
        refuse_overlay(path, directory, |path, source| GuestError::Store {
            path,
            source,
        })?;
    }
    Ok(())
}

fn refuse_overlay(
    path: &Path,
    directory: BorrowedFd<'_>,
    failed: impl FnOnce(PathBuf, io::Error) -> GuestError,
) -> Result<(), GuestError> {
    let path = path.to_path_buf();
    match FilesystemKind::of(directory) {
        Ok(FilesystemKind::Overlay) => Err(GuestError::Overlay { path }),
        Ok(_) => Ok(()),
        Err(errno) => Err(failed(path, errno.into())),
    }
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
        let mut ancestors = above(&store.path, store.directory.as_fd(), store.mounted_inode())?;
        ancestors.insert(0, store.mounted_inode());
        if let Some(guest) = ancestors
            .iter()
            .find_map(|inode| vdirs.get(&inode.device_and_inode()))
        {
            let (store, vdir) = (store.path.clone(), guest.vdir.clone());
            return Err(GuestError::StoreInVdir { store, vdir });
        }
    }
    for guest in guests {
        for ancestor in above(&guest.vdir, guest.root.as_fd(), guest.mounted_inode())? {
            if let Some(outer) = vdirs.get(&ancestor.device_and_inode()) {
                let (inner, outer) = (guest.vdir.clone(), outer.vdir.clone());
                return Err(GuestError::NestedVdir { inner, outer });
            }
            let holds = |store: &&StoreLocation| {
                store.mounted_inode().device_and_inode() == ancestor.device_and_inode()
            };
            if let Some(store) = stores.iter().find(holds) {
                let (vdir, store) = (guest.vdir.clone(), store.path.clone());
                return Err(GuestError::VdirInStore { vdir, store });
            }
        }
    }
    Ok(())
}

/// The directories that hold `directory`, the nearest first, the process's root last. `path` is for messages.
fn above(
    path: &Path,
    directory: BorrowedFd<'_>,
    start: MountedInode,
) -> Result<Vec<MountedInode>, GuestError> {
    let climb = || -> rustix::io::Result<Vec<MountedInode>> {
        let up = |from: BorrowedFd<'_>| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(from, c"..", flags, Mode::empty())
        };
        let mut ancestors = Vec::new();
        let (mut last, mut parent) = (start, up(directory)?);
        loop {
            let inode = MountedInode::of(parent.as_fd())?;
            // Only the root is its own parent. Inode numbers alone do not tell: after
            // `mount --bind /a /a/b` the parent of /a/b has the same inode, on another mount.
            if inode == last {
                return Ok(ancestors);
            }
            ancestors.push(inode);
            last = inode;
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
