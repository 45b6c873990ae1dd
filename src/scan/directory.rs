//! Reads one directory: asks the rules about each name, and the filesystem about each inode.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, RawDir, RawDirEntry, Statx, StatxAttributes};
use rustix::io::Errno;
use vhashify_sys::directory::Directory;
use vhashify_sys::stamp::Stamp;

use super::findings::Findings;
use super::record::Permissions;
use super::{FileRecord, KnownInodes, LeftoverName, join};
use crate::exclude::{Rules, Verdict};
use crate::guest::{Guest, InodeUsers};
use crate::outcome::{FileError, Skip};
use crate::relink::temporary;

/// Reads one directory, whose path below the vdir is `full_path`.
pub(super) struct DirectoryReader<'a> {
    pub(super) guest: &'a Guest,
    pub(super) rules: &'a Rules,
    pub(super) smallest: u64,
    pub(super) known: Option<&'a KnownInodes<'a>>,
    pub(super) wanted: &'a [u64],
    pub(super) users: &'a InodeUsers,
    pub(super) directory: u32,
    /// Its filesystem, once it is open.
    pub(super) device: u64,
    /// Whether a mounted overlay has it, or a directory above it.
    pub(super) is_in_overlay: bool,
    pub(super) found: &'a mut Findings,
    /// `/usr/bin` while `usr/bin` is read; `verdict` appends a name to ask the rules, and cuts it off again.
    pub(super) full_path: Vec<u8>,
    /// Directories that the rules let the walk enter.
    pub(super) subdirectories: Vec<Vec<u8>>,
}

impl DirectoryReader<'_> {
    /// Reads the open directory; an error names the call that failed.
    pub(super) fn read(
        &mut self,
        opened: BorrowedFd<'_>,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<(), (&'static str, Errno)> {
        let looked = Directory::look(opened).map_err(|errno| ("statx", errno))?;
        self.device = looked.device;
        self.known = self.known.filter(|known| known.device == looked.device);
        // Those on other filesystems have numbers of their own.
        if looked.device == self.guest.device && self.wanted.binary_search(&looked.inode).is_ok() {
            self.found.wanted.push((looked.inode, self.directory));
        }
        self.is_in_overlay |= self.users.has_layer(&looked);
        if self.is_in_overlay {
            self.found.in_overlay.push(self.directory);
        }
        if looked.keeps_names {
            self.found.keep_names.push(self.directory);
        }
        let mut entries = RawDir::new(opened, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| ("getdents64", errno))?;
            self.entry(opened, &entry);
        }
        Ok(())
    }

    fn entry(&mut self, opened: BorrowedFd<'_>, entry: &RawDirEntry<'_>) {
        let name = entry.file_name();
        let bytes = name.to_bytes();
        if bytes == b"." || bytes == b".." {
            return;
        }
        match entry.file_type() {
            FileType::Directory => self.subdirectory(bytes),
            FileType::RegularFile => {
                let known = self.known.and_then(|known| (known.stamp_of)(entry.ino()));
                match known {
                    Some(stamp) if self.is_included(bytes) => self.take(bytes, &stamp),
                    Some(_) => {}
                    None => self.file(opened, name),
                }
            }
            // Old filesystems give no type here; statx does.
            FileType::Unknown => match look(opened, name) {
                Ok(found) if FileType::from_raw_mode(found.stx_mode.into()).is_dir() => {
                    self.subdirectory(bytes);
                }
                Ok(_) => self.file(opened, name),
                Err(errno) => self.failed(bytes, errno),
            },
            _ => self.found.skipped.add(Skip::NotRegular, 1),
        }
    }

    fn subdirectory(&mut self, name: &[u8]) {
        match self.verdict(name, true) {
            Verdict::Exclude => self.found.skipped.add(Skip::Excluded, 1),
            Verdict::Include | Verdict::SkipEntry => self.subdirectories.push(name.to_vec()),
        }
    }

    fn file(&mut self, opened: BorrowedFd<'_>, name: &CStr) {
        let bytes = name.to_bytes();
        if !self.is_included(bytes) {
            return;
        }
        let looked = match look(opened, name) {
            Ok(looked) => looked,
            Err(errno) => return self.failed(bytes, errno),
        };
        let is_mount_point = looked.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        let stamp = Stamp::from(looked);
        if is_mount_point {
            self.found.skipped.add(Skip::MountPoint, 1);
        } else if stamp.is_regular() {
            self.take(bytes, &stamp);
        } else {
            self.found.skipped.add(Skip::NotRegular, 1);
        }
    }

    /// Whether the rules include a file of this name; counts it where they do not, and keeps temporary names.
    fn is_included(&mut self, name: &[u8]) -> bool {
        if temporary::is_one(name) {
            let leftover = LeftoverName {
                directory: self.directory,
                name: name.to_vec(),
            };
            self.found.leftovers.push(leftover);
            return false;
        }
        let is_included = self.verdict(name, false) == Verdict::Include;
        if !is_included {
            self.found.skipped.add(Skip::Excluded, 1);
        }
        is_included
    }

    fn take(&mut self, name: &[u8], stamp: &Stamp) {
        self.found.files_seen += 1;
        self.found.bytes_seen += stamp.size;
        let skip = if stamp.size == 0 {
            Skip::Empty
        } else if stamp.size < self.smallest {
            Skip::Small
        } else {
            let name = self.found.names.add(name);
            let permissions = self.found.permissions.number(Permissions::of(stamp));
            let record = FileRecord::new(stamp, permissions, self.directory, name);
            if self.users.has_files() && self.users.has_file(self.device, stamp.inode) {
                self.found.used.push(stamp.inode);
            }
            self.found.files.push(record);
            return;
        };
        self.found.skipped.add(skip, 1);
    }

    fn verdict(&mut self, name: &[u8], is_directory: bool) -> Verdict {
        let length = self.full_path.len();
        if length > 1 {
            self.full_path.push(b'/');
        }
        self.full_path.extend_from_slice(name);
        let verdict = self.rules.decide(&self.full_path, is_directory);
        self.full_path.truncate(length);
        verdict
    }

    fn failed(&mut self, name: &[u8], errno: Errno) {
        // Removed since the directory was read.
        if errno != Errno::NOENT {
            let path = self.guest.path_of(&join(&self.full_path[1..], name));
            self.found
                .errors
                .push(FileError::call("statx", path, &errno.into()));
        }
    }
}

fn look(directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(directory, name, flags, Stamp::MASK)
}
