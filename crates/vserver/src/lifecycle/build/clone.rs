//! Copies a guest's root directory: links objects, and copies every other file to an inode of its own.
//!
//! If a name of the source leads to an object of the store, the clone gets another link to that object. So the clone
//! shares it exactly as the source does, and two names of the clone are one file if and only if they are in the
//! source. Other files are copied, by shared extents where the filesystem can, and under a lease, so that no copy mixes
//! two states of a file. Copies get their inode flags (`chattr`) last, because some flags forbid every other change.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    linkat, lsetxattr, mkdirat, mknodat, readlinkat, symlinkat, utimensat,
};
use rustix::io::Errno;
use vhashify::guest::StoreLocation;
use vhashify::relink::private_copy::private_copy;
use vhashify::store::{Store, StoreLock, Wait};
use vhashify_config::ConfigTree;
use vhashify_sys::flags::Own;
use vhashify_sys::lease::{LeasedFile, ignore_break_signal};
use vhashify_sys::procfs::descriptor_path;
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;
use vhashify_sys::xattr::{self, Of};

use super::super::LifecycleError;
use super::super::error::Doing;
use super::left_out::{self, LeftOut};

/// Copies the directory `source` into the empty directory `to`. Says what it leaves out.
pub fn clone(
    tree: &ConfigTree,
    name: &str,
    source: &Path,
    to: &Path,
) -> Result<LeftOut, LifecycleError> {
    ignore_break_signal();
    // Without it, the guard refuses this process leases on marked files, and to set the mark.
    #[cfg(feature = "guard")]
    let _permit =
        vhashify::protect::guard::Permit::acquire().map_err(|error| LifecycleError::Build {
            name: name.to_owned(),
            reason: error.to_string().into(),
        })?;
    let from = resolve::open_host_directory(source).doing("open", source)?;
    let into = resolve::open_host_directory(to).doing("open", to)?;
    let stamp = Stamp::of(from.as_fd()).doing("statx", source)?;
    let device = rustix::fs::fstat(&from).doing("stat", source)?.st_dev;
    let target = rustix::fs::fstat(&into).doing("stat", to)?.st_dev;
    // Holds the lock until the last link is made: a run would replace names meanwhile.
    let (objects, _lock) = if device == target {
        objects_on(tree, name, device)?
    } else {
        (HashSet::new(), None)
    };
    let mut cloner = Cloner {
        objects,
        groups: HashMap::new(),
        flagged: Vec::new(),
        device,
        place: source.to_path_buf(),
        left_out: LeftOut::default(),
    };
    cloner.contents(from.as_fd(), into.as_fd())?;
    let (from_name, to_name) = (descriptor_path(&from), descriptor_path(&into));
    cloner.metadata(&stamp, CWD, from_name.as_os_str(), CWD, to_name.as_os_str())?;
    // The build renames the clone later, which an immutable directory refuses.
    let own = Own::of(from.as_fd()).doing("ioctl(FS_IOC_GETFLAGS)", source)?;
    let top = (into, own.that_leave_names(), to.to_path_buf());
    cloner.flagged.push(top);
    let out = cloner.left_out;
    cloner.set_flags()?;
    Ok(out)
}

/// The inode numbers of the store's objects on a device. Empty if the tree has no store there.
fn objects_on(
    tree: &ConfigTree,
    name: &str,
    device: u64,
) -> Result<(HashSet<u64>, Option<StoreLock>), LifecycleError> {
    let failed = |error: &dyn std::fmt::Display| LifecycleError::Build {
        name: name.to_owned(),
        reason: error.to_string().into(),
    };
    let Ok(stores) = tree.all_stores() else {
        return Ok((HashSet::new(), None));
    };
    let Some(entry) = stores.iter().find(|store| store.device == device) else {
        return Ok((HashSet::new(), None));
    };
    let location = StoreLocation::open(&entry.directory).map_err(|error| failed(&error))?;
    let mut store = Store::open(&location).map_err(|error| failed(&error))?;
    let lock = StoreLock::acquire(&store, Wait::Forever, || {
        tracing::info!("waiting for a run on the store");
    });
    let lock = lock.map_err(|error| failed(&error))?;
    let (listed, _) = store.list().map_err(|error| failed(&error))?;
    let inodes = listed.iter().map(|object| object.inode).collect();
    Ok((inodes, Some(lock)))
}

struct Cloner {
    /// Inode numbers of the store's objects.
    objects: HashSet<u64>,
    /// The first name of the copy of each link group, by the inode number in the source.
    groups: HashMap<u64, (OwnedFd, Vec<u8>)>,
    /// Copies that get inode flags at the end, and the paths of their originals.
    flagged: Vec<(OwnedFd, Own, PathBuf)>,
    device: u64,
    /// The path in the source that is being copied, for messages.
    place: PathBuf,
    /// What the clone does not have.
    left_out: LeftOut,
}

impl Cloner {
    fn contents(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), LifecycleError> {
        let mut names = resolve::names(from).doing("read", &self.place)?;
        names.sort_unstable();
        for name in names {
            let name = OsStr::from_bytes(&name);
            self.place.push(name);
            self.entry(from, to, name)?;
            self.place.pop();
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), LifecycleError> {
        let bytes = name.as_bytes();
        if left_out::is_own_name(bytes) {
            self.left_out.names += 1;
            return Ok(());
        }
        let stamp = Stamp::at(from, bytes).doing("statx", &self.place)?;
        match FileType::from_raw_mode(stamp.mode.into()) {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU).doing("mkdir", &self.place)?;
                let inner_from = resolve::open_directory(from, bytes);
                // A filesystem mounted in the guest is not part of it.
                if matches!(inner_from, Err(Errno::XDEV)) {
                    return Ok(());
                }
                let inner_from = inner_from.doing("open", &self.place)?;
                let inner_to = resolve::open_directory(to, bytes).doing("open", &self.place)?;
                self.contents(inner_from.as_fd(), inner_to.as_fd())?;
                self.remember_flags(inner_from.as_fd(), inner_to.as_fd())?;
            }
            FileType::RegularFile => return self.file(from, to, name, &stamp),
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new()).doing("readlink", &self.place)?;
                symlinkat(target, to, name).doing("symlink", &self.place)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                self.left_out.devices += 1;
                return Ok(());
            }
            kind => mknodat(to, name, kind, Mode::RUSR, 0).doing("mknod", &self.place)?,
        }
        self.metadata(&stamp, from, name, to, name)
    }

    /// Links an object, or a further name of a copied file; copies any other file.
    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        stamp: &Stamp,
    ) -> Result<(), LifecycleError> {
        let device = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
            .doing("stat", &self.place)?
            .st_dev;
        if device == self.device && self.objects.contains(&stamp.inode) {
            match linkat(from, name, to, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // The object has as many links as the filesystem allows: copy it.
                Err(Errno::MLINK) => {}
                Err(error) => return Err(error).doing("link", &self.place),
            }
        }
        if let Some((directory, first)) = self.groups.get(&stamp.inode) {
            let first = OsStr::from_bytes(first);
            return linkat(directory, first, to, name, AtFlags::empty()).doing("link", &self.place);
        }
        let file = resolve::open_file(from, name.as_bytes()).doing("open", &self.place)?;
        let leased = LeasedFile::acquire(file).map_err(|refused| match refused.errno {
            Errno::AGAIN => io::Error::other("it is open for writing; stop who writes it"),
            errno => errno.into(),
        });
        let leased = leased.doing("copy", &self.place)?;
        let stamp = Stamp::of(leased.as_fd()).doing("statx", &self.place)?;
        let copied = private_copy(&leased, &stamp, to).doing("copy", &self.place)?;
        let unnamed = descriptor_path(&copied);
        let cleared = left_out::clear_attributes(&copied).doing("removexattr", &self.place)?;
        self.left_out.attributes += cleared;
        linkat(CWD, &unnamed, to, name, AtFlags::SYMLINK_FOLLOW).doing("link", &self.place)?;
        self.remember_flags(leased.as_fd(), copied.as_fd())?;
        if stamp.link_count > 1 {
            let directory = to.try_clone_to_owned().doing("dup", &self.place)?;
            self.groups
                .insert(stamp.inode, (directory, name.as_bytes().to_vec()));
        }
        Ok(())
    }

    fn remember_flags(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
    ) -> Result<(), LifecycleError> {
        let own = Own::of(from).doing("ioctl(FS_IOC_GETFLAGS)", &self.place)?;
        if !own.is_empty() {
            let to = to.try_clone_to_owned().doing("dup", &self.place)?;
            self.flagged.push((to, own, self.place.clone()));
        }
        Ok(())
    }

    /// Sets the flags of copies, and warns of those that this filesystem does not keep.
    fn set_flags(self) -> Result<(), LifecycleError> {
        for (copy, own, place) in self.flagged {
            if !own.is_empty()
                && !own
                    .give(copy.as_fd())
                    .doing("ioctl(FS_IOC_SETFLAGS)", &place)?
            {
                let place = vhashify_sys::shown::Shown::path(&place);
                tracing::warn!("the copy of {place} cannot have all of its inode flags (lsattr)");
            }
        }
        Ok(())
    }

    /// Copies owner, mode, extended attributes and times of anything but a regular file.
    fn metadata(
        &mut self,
        stamp: &Stamp,
        from: BorrowedFd<'_>,
        from_name: &OsStr,
        to: BorrowedFd<'_>,
        to_name: &OsStr,
    ) -> Result<(), LifecycleError> {
        let is_link = FileType::from_raw_mode(stamp.mode.into()) == FileType::Symlink;
        let (user, group) = (Uid::from_raw(stamp.owner), Gid::from_raw(stamp.group));
        let follow = if from_name.as_bytes().contains(&b'/') {
            AtFlags::empty()
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        chownat(to, to_name, Some(user), Some(group), follow).doing("chown", &self.place)?;
        if !is_link {
            let mode = Mode::from_raw_mode(stamp.mode.into());
            chmodat(to, to_name, mode, AtFlags::empty()).doing("chmod", &self.place)?;
        }
        let path = |directory: BorrowedFd<'_>, name: &OsStr| {
            if name.as_bytes().contains(&b'/') {
                let mut inside = PathBuf::from(name);
                inside.push(".");
                inside
            } else {
                descriptor_path(&directory).join(name)
            }
        };
        let (from_path, to_path) = (path(from, from_name), path(to, to_name));
        for attribute in xattr::list(Of::Path(&from_path)).doing("listxattr", &self.place)? {
            if left_out::is_own_attribute(&attribute) {
                self.left_out.attributes += 1;
                continue;
            }
            let value = xattr::get(Of::Path(&from_path), &attribute);
            let value = value.doing("getxattr", &self.place)?.unwrap_or_default();
            lsetxattr(&to_path, &attribute, &value, XattrFlags::empty())
                .doing("setxattr", &self.place)?;
        }
        let time = Timespec {
            tv_sec: stamp.mtime.seconds,
            tv_nsec: stamp.mtime.nanoseconds.into(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(to, to_name, &times, follow).doing("utimensat", &self.place)
    }
}
