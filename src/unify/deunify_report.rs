//! What `deunify` did.

use serde::Serialize;

use crate::outcome::FileError;

/// What was given back, or with `--dry-run` would be.
#[derive(Debug, Default, Serialize)]
pub struct DeunifyReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Names that lead to private copies now.
    pub files_deunified: u64,
    /// Bytes of content that were copied.
    pub bytes_copied: u64,
    /// Files that could not be handled; they still link their objects.
    pub errors: Vec<FileError>,
}
