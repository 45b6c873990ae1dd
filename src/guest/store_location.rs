//! A store's directory, before anything is known of what it holds.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::error::GuestError;
use super::mounted_inode::{MountedInode, open_directory};

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

impl StoreLocation {
    /// Opens the store's directory. `path` may be a link.
    ///
    /// # Errors
    /// [`GuestError::Store`] when it is missing, is no directory, or may not be read.
    pub fn open(path: &Path) -> Result<Self, GuestError> {
        let (path, directory, inode) =
            open_directory(path).map_err(|source| GuestError::Store {
                path: path.to_path_buf(),
                source,
            })?;
        Ok(Self {
            path,
            directory,
            device: inode.device,
            inode: inode.inode,
            mount_id: inode.mount_id,
        })
    }

    pub(super) fn mounted_inode(&self) -> MountedInode {
        MountedInode {
            device: self.device,
            inode: self.inode,
            mount_id: self.mount_id,
        }
    }
}
