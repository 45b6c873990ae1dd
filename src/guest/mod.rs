//! Guests and stores as open directories, and whether they lie on the host as they should.
//!
//! ```text
//! /vservers/          one filesystem, one mount
//!   .hash/            its store: in no vdir, and no vdir in it
//!   web/  mail/       vdirs: none in another, none named twice, none the host's own /
//! ```
//!
//! `layout` decides on descriptors, by device and inode numbers; it uses paths in messages only. To see whether one
//! directory lies in another it climbs `..` up to the root. On one mount that climb meets every directory above,
//! by whichever path the directory was opened; and since a guest and its store must be on the same mount, no bind
//! mount can hide that one holds the other.
//!
//! `inode_users` finds the inodes of guests that somebody uses by another way than by their names.

mod error;
mod inode_users;
mod layout;
mod mounted_inode;
mod store_location;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use vhashify_sys::resolve;

pub use error::GuestError;
pub use inode_users::InodeUsers;
pub use layout::{check_layout, check_references};
pub use store_location::StoreLocation;

use mounted_inode::{MountedInode, open_directory};

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

impl Guest {
    /// Opens the root directory of the guest `name`. `vdir` may be a link.
    ///
    /// # Errors
    /// [`GuestError::Vdir`] when it is missing, is no directory, or may not be read.
    pub fn open(name: &OsStr, vdir: &Path) -> Result<Self, GuestError> {
        let (vdir, root, inode) = open_directory(vdir).map_err(|source| GuestError::Vdir {
            path: vdir.to_path_buf(),
            source,
        })?;
        Ok(Self::new(name, vdir, root, inode))
    }

    /// The guest `name` whose root directory is open already, for reading.
    ///
    /// # Errors
    /// [`GuestError::Vdir`] when it cannot be looked at.
    pub fn at(name: &OsStr, root: OwnedFd) -> Result<Self, GuestError> {
        let look = || -> io::Result<(PathBuf, MountedInode)> {
            let vdir = OsString::from_vec(resolve::path_of(root.as_fd())?);
            Ok((vdir.into(), MountedInode::of(root.as_fd())?))
        };
        match look() {
            Ok((vdir, inode)) => Ok(Self::new(name, vdir, root, inode)),
            Err(source) => Err(GuestError::Vdir {
                path: name.into(),
                source,
            }),
        }
    }

    fn new(name: &OsStr, vdir: PathBuf, root: OwnedFd, inode: MountedInode) -> Self {
        Self {
            name: name.to_os_string(),
            vdir,
            root,
            device: inode.device,
            inode: inode.inode,
            mount_id: inode.mount_id,
        }
    }

    /// The host's path of what the guest has at `below`, relative to its root; for messages.
    #[must_use]
    pub fn path_of(&self, below: &[u8]) -> PathBuf {
        if below.is_empty() {
            self.vdir.clone()
        } else {
            self.vdir.join(OsStr::from_bytes(below))
        }
    }

    fn mounted_inode(&self) -> MountedInode {
        MountedInode {
            device: self.device,
            inode: self.inode,
            mount_id: self.mount_id,
        }
    }
}
