//! Confines a run to files of the first guest and what the others have at the same paths: finds the
//! names of a group's files, for the decisions of [`super::same_path`] and [`super::by_reference`].

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::group::inodes;
use super::path_filter::PathFilter;
use super::same_path::{self, GUEST, GuestPath};
use super::source::Source;
use crate::error::Error;
use crate::scan::{FileRecord, Scan};

/// Which files may be shared with which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Files of any guests that are the same, and objects that are.
    All,
    /// Files of the first guest at or below these paths, as it sees them (all of it, if there are
    /// none), each with the file that another guest has at the same path.
    AtSamePath(Vec<PathBuf>),
}

/// [`Scope::AtSamePath`], resolved.
#[derive(Debug)]
pub struct ReferenceMatch {
    paths: PathFilter,
}

impl ReferenceMatch {
    /// What `scope` confines a run on `sources` to; `None` where it does not.
    ///
    /// # Errors
    /// A path that is not in the first guest.
    pub fn new(scope: &Scope, sources: &[Source]) -> Result<Option<Self>, Error> {
        match (scope, sources) {
            (Scope::AtSamePath(paths), [first, ..]) => Ok(Some(Self {
                paths: PathFilter::new(&first.guest, paths)?,
            })),
            _ => Ok(None),
        }
    }

    /// The names of each of `files`, without those of the first guest that are not asked for.
    pub fn names<'f>(
        &self,
        scan: &Scan,
        files: impl IntoIterator<Item = &'f [FileRecord]>,
    ) -> Vec<Vec<GuestPath>> {
        let mut numbers: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut name = |file: &FileRecord| {
            let (guest, path) = (scan.guest_of(file.directory), scan.path_of(file));
            if guest == GUEST && !self.paths.holds(&path) {
                return None;
            }
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            let path = *numbers.entry(path).or_insert(next);
            Some(GuestPath { guest, path })
        };
        let files = files.into_iter();
        files
            .map(|names| names.iter().filter_map(&mut name).collect())
            .collect()
    }

    /// The inodes among `files`, all of one key, that have a partner or are one.
    #[must_use]
    pub fn matched(&self, scan: &Scan, files: &[FileRecord]) -> HashSet<u64> {
        let is_own = |file: &FileRecord| scan.guest_of(file.directory) == GUEST;
        // Most groups are of one guest; no path is put together for these.
        if files.iter().all(is_own) || !files.iter().any(is_own) {
            return HashSet::new();
        }
        let all: Vec<&[FileRecord]> = inodes(files).collect();
        let names = self.names(scan, all.iter().copied());
        let found = same_path::partners(&names).into_iter();
        found
            .flat_map(|(file, partners)| std::iter::once(file).chain(partners))
            .map(|file| all[file][0].inode())
            .collect()
    }
}
