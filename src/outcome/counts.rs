//! What a run counts, once for all who count it: each worker, the report of a run, the runs that the index remembers.

use serde::{Deserialize, Serialize};

/// The counters of a run. They are serialised in this order and under these names, in `--format json` and in the index;
/// one that an earlier version did not write is read as 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Regular files that the scan looked at.
    pub files_scanned: u64,
    /// Bytes of content of these.
    pub bytes_scanned: u64,
    /// Files that were read and digested.
    pub files_hashed: u64,
    /// Bytes of content of these.
    pub bytes_hashed: u64,
    /// Names in guests that were replaced by a link to an object, or, where extents are shared, that lead to a file
    /// which has those of another one now.
    pub files_unified: u64,
    /// Bytes of content that are not kept a second time any more: the sizes of the inodes that were replaced, or of
    /// the places on the disk that no guest uses any more.
    pub bytes_saved: u64,
    /// The same as the filesystem allocated it. What a snapshot or a file outside of the guests still holds is not free
    /// before that is gone.
    pub disk_bytes_saved: u64,
    /// Objects that were made in the store.
    pub objects_created: u64,
}

impl Counts {
    /// Counts a file of `names` names that was replaced, with the bytes that its inode held and had allocated.
    pub fn unified(&mut self, names: u64, size: u64, allocated: u64) {
        self.files_unified += names;
        self.bytes_saved += size;
        self.disk_bytes_saved += allocated;
    }

    /// Adds what another worker, or a run on another store, counted.
    pub fn merge(&mut self, other: &Self) {
        self.files_scanned += other.files_scanned;
        self.bytes_scanned += other.bytes_scanned;
        self.files_hashed += other.files_hashed;
        self.bytes_hashed += other.bytes_hashed;
        self.files_unified += other.files_unified;
        self.bytes_saved += other.bytes_saved;
        self.disk_bytes_saved += other.disk_bytes_saved;
        self.objects_created += other.objects_created;
    }
}
