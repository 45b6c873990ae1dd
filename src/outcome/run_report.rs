//! The account of one run.

use serde::Serialize;

use super::{FileError, Skipped};

/// What a run did, or with `--dry-run` would do. Serialized as it is for `--format json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunReport {
    /// When it began, in seconds since 1970.
    pub began: i64,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The guests, by name.
    pub guests: Vec<String>,
    /// How what they share is protected (`--protect`, with `auto` resolved), each mode once.
    pub protection: Vec<&'static str>,
    /// Regular files that were looked at.
    pub files_scanned: u64,
    /// Bytes of content of these.
    pub bytes_scanned: u64,
    /// Files that were read and digested.
    pub files_hashed: u64,
    /// Bytes of content of these.
    pub bytes_hashed: u64,
    /// Names in guests that were replaced by a link to an object, or, where extents are shared,
    /// that lead to a file which has those of another one now.
    pub files_unified: u64,
    /// Bytes of content that are not kept a second time any more: the sizes of the inodes that
    /// were replaced, or of the places on the disk that no guest uses any more.
    pub bytes_saved: u64,
    /// The same as the filesystem allocated it. What a snapshot or a file outside of the guests
    /// still holds is not free before that is gone.
    pub disk_bytes_saved: u64,
    /// Objects that were made in the store.
    pub objects_created: u64,
    /// Files that were left as they are, by reason.
    pub skipped: Skipped,
    /// Bytes of content of those among them that were opened, or were to be, by reason.
    pub skipped_bytes: Skipped,
    /// Files that could not be handled.
    pub errors: Vec<FileError>,
    /// How long each stage took.
    pub seconds: Seconds,
}

/// Seconds by stage.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Seconds {
    /// Reading the store and the index.
    pub load: f64,
    /// Walking the guests.
    pub scan: f64,
    /// Sorting into groups that may be alike.
    pub group: f64,
    /// Reading, planning and linking.
    pub unify: f64,
    /// Writing the index.
    pub index: f64,
    /// From beginning to end.
    pub total: f64,
}

impl RunReport {
    /// Adds what was done on another store.
    pub fn merge(&mut self, other: Self) {
        self.began = match self.began {
            0 => other.began,
            began => began.min(other.began),
        };
        self.dry_run |= other.dry_run;
        self.guests.extend(other.guests);
        for mode in other.protection {
            if !self.protection.contains(&mode) {
                self.protection.push(mode);
            }
        }
        self.files_scanned += other.files_scanned;
        self.bytes_scanned += other.bytes_scanned;
        self.files_hashed += other.files_hashed;
        self.bytes_hashed += other.bytes_hashed;
        self.files_unified += other.files_unified;
        self.bytes_saved += other.bytes_saved;
        self.disk_bytes_saved += other.disk_bytes_saved;
        self.objects_created += other.objects_created;
        self.skipped.merge(&other.skipped);
        self.skipped_bytes.merge(&other.skipped_bytes);
        self.errors.extend(other.errors);
        self.seconds.load += other.seconds.load;
        self.seconds.scan += other.seconds.scan;
        self.seconds.group += other.seconds.group;
        self.seconds.unify += other.seconds.unify;
        self.seconds.index += other.seconds.index;
        self.seconds.total += other.seconds.total;
    }
}
