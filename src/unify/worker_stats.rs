//! What one worker did; the statistics of all workers make up the report.

use std::path::PathBuf;

use rustix::io::Errno;
use vhashify_sys::stamp::Stamp;

use crate::identity::Identity;
use crate::identity::Unproven;
use crate::outcome::{Counts, FileError, Skip, Skipped};
use crate::scan::GuestId;
use crate::store::ObjectName;

/// An object that was made or linked in this run.
#[derive(Debug)]
pub struct Linked {
    /// Its name.
    pub name: ObjectName,
    /// Its inode after the last link.
    pub stamp: Stamp,
    /// Who links it since this run, each with its count of names.
    pub guests: Vec<(GuestId, u32)>,
}

/// Counts, and what the index is to learn.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// What is counted in the report, but for what the scan counts.
    pub counts: Counts,
    /// Files left alone.
    pub skipped: Skipped,
    /// Bytes of content of these.
    pub skipped_bytes: Skipped,
    /// Files that could not be handled.
    pub errors: Vec<FileError>,
    /// Set once going on makes no sense: the disk is full, read-only or broken.
    pub fatal: Option<Errno>,
    /// Directories that could not be watched, so that they keep the mtime that replacing gave them.
    pub directories_with_new_mtime: u64,
    /// Objects that were linked, as they are now.
    pub objects: Vec<Linked>,
    /// Files that were read and stay private, so that the next run need not read them.
    pub read: Vec<(Stamp, Identity)>,
    /// Files that share extents, by inode: where these begin on the disk.
    pub extents: Vec<(u64, u64)>,
}

impl WorkerStats {
    /// Counts a failure, and remembers whether it makes going on senseless.
    pub fn failed(&mut self, error: FileError, errno: Errno) {
        self.errors.push(error);
        if matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO) {
            self.fatal.get_or_insert(errno);
        }
    }

    /// Counts a file of `files` names and `bytes` of content that is left alone.
    pub fn unproven(&mut self, why: Unproven, path: PathBuf, files: u64, bytes: u64) {
        match why {
            Unproven::Skipped(skip) => self.skip(skip, files, bytes),
            Unproven::Failed(failed) => self.errors.push(FileError::failed(failed, path)),
        }
    }

    /// Counts a file of `files` names and `bytes` of content that was skipped.
    pub fn skip(&mut self, skip: Skip, files: u64, bytes: u64) {
        self.skipped.add(skip, files);
        self.skipped_bytes.add(skip, bytes);
    }

    /// Adds what another worker did.
    pub fn merge(&mut self, other: Self) {
        self.counts.merge(&other.counts);
        self.skipped.merge(&other.skipped);
        self.skipped_bytes.merge(&other.skipped_bytes);
        self.errors.extend(other.errors);
        self.fatal = self.fatal.or(other.fatal);
        self.directories_with_new_mtime += other.directories_with_new_mtime;
        self.objects.extend(other.objects);
        self.read.extend(other.read);
        self.extents.extend(other.extents);
    }
}
