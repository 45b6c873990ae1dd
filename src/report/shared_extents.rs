//! Finds the extents that files of several guests share although they share no inode.

use std::os::fd::AsFd;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rustix::io::Errno;
use vhashify_sys::extent_map::ExtentMap;
use vhashify_sys::filesystem_kind::FilesystemKind;
use vhashify_sys::overlap::Span;
use vhashify_sys::resolve;

use crate::guest::Guest;
use crate::outcome::FileError;
use crate::scan::{FileRecord, Scan};
use crate::store::Store;

/// Whether the store's filesystem can share extents between files.
#[must_use]
pub fn can_overlap(store: &Store) -> bool {
    let kind = FilesystemKind::of(store.directory());
    matches!(kind, Ok(FilesystemKind::Btrfs | FilesystemKind::Xfs))
}

/// The extents of `files`, each with the file's guest as its holder, and the files whose extents cannot be read.
#[must_use]
pub fn spans(scan: &Scan, guests: &[&Guest], files: &[&FileRecord]) -> (Vec<Span>, Vec<FileError>) {
    let mut all = (Vec::new(), Vec::new());
    let results: Vec<Result<Vec<Span>, FileError>> = files
        .par_iter()
        .map(|file| {
            let holder = scan.guest_of(file.directory);
            let guest = guests[usize::from(holder)];
            let extents = extents(scan, guest, file).map_err(|(call, errno)| {
                let path = guest.path_of(&scan.path_of(file));
                FileError::call(call, path, &errno.into())
            })?;
            let held = extents.extents().iter().map(|extent| Span {
                address: extent.address,
                length: extent.length,
                holder,
            });
            Ok(held.collect())
        })
        .collect();
    for result in results {
        match result {
            Ok(spans) => all.0.extend(spans),
            Err(error) => all.1.push(error),
        }
    }
    all
}

fn extents(
    scan: &Scan,
    guest: &Guest,
    file: &FileRecord,
) -> Result<ExtentMap, (&'static str, Errno)> {
    let opened = resolve::open_directory(guest.root.as_fd(), &scan.directory_path(file.directory))
        .and_then(|directory| resolve::open_file(directory.as_fd(), scan.name_of(file)));
    match opened {
        // Counts preallocated blocks beyond the end of the file, too.
        Ok(opened) => ExtentMap::of(opened.as_fd(), file.size().max(file.allocated()))
            .map(Option::unwrap_or_default)
            .map_err(|errno| ("ioctl(FS_IOC_FIEMAP)", errno)),
        // Since the scan the file was removed or replaced by something else.
        Err(Errno::NOENT | Errno::LOOP | Errno::XDEV | Errno::NOTDIR | Errno::NXIO) => {
            Ok(ExtentMap::default())
        }
        Err(errno) => Err(("openat2", errno)),
    }
}
