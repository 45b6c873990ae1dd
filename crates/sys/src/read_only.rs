//! A file that no process can write that gets at it through this one: it is on a mount of its own, which is read-only.
//!
//! ```text
//! a file ─ open_tree(OPEN_TREE_CLONE) ─▶ a mount of it ─ mount_setattr ─▶ read-only ─▶ a program runs from it
//! ```
//!
//! The mount has no mount point. Once its descriptor is closed it is in no mount namespace either, and no process can
//! change its attributes, whatever its capabilities (`do_mount_setattr`, fs/namespace.c). It lasts as long as a program
//! that was executed from it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatvfs, open};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mount_attributes::{self, Which};

/// Makes such a mount of the file at `path`, which may be a link to it.
///
/// # Errors
/// `ENOSYS` on Linux before 5.12, `EINVAL` where its mount is in no namespace of this process's; otherwise the
/// call's.
pub fn show(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    mount_attributes::set(tree.as_fd(), Which::This, &attributes)?;
    Ok(tree)
}

/// Whether the file at `path` is on a read-only mount.
#[must_use]
pub fn is_read_only(path: &Path) -> bool {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(fstatvfs)
        .is_ok_and(|filesystem| filesystem.f_flag.contains(StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;

    use super::{is_read_only, show};
    use crate::procfs::descriptor_path;

    #[test]
    fn what_is_shown_is_the_file_and_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "content").unwrap();
        let shown = show(&path).unwrap();
        let shown = descriptor_path(&shown);
        assert_eq!(fs::read_to_string(&shown).unwrap(), "content");
        assert!(is_read_only(&shown) && !is_read_only(&path));
        for refused in [
            File::options().append(true).open(&shown).map(drop),
            fs::set_permissions(&shown, fs::metadata(&path).unwrap().permissions()),
        ] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        }
        fs::write(&path, "other").unwrap();
    }
}
