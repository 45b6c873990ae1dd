//! Opens and reads files of guests for one worker. It changes nothing, so that a dry run has one, too.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::resolve;

use super::view::View;
use super::worker_stats::WorkerStats;
use crate::identity::{Digester, Leased, Mtime, Proven, Unproven};
use crate::outcome::Skip;
use crate::scan::FileRecord;

/// What one worker opens and reads files with.
#[derive(Debug)]
pub struct Reader<'a> {
    view: View<'a>,
    directories: HashMap<u32, Rc<OwnedFd>>,
    /// What it digests contents with.
    pub digester: Digester,
}

impl<'a> Reader<'a> {
    /// A reader with nothing open.
    #[must_use]
    pub fn new(view: View<'a>) -> Self {
        Self {
            view,
            directories: HashMap::new(),
            digester: Digester::default(),
        }
    }

    /// Opens what has the name of a file that the walk found, whatever it may be by now.
    ///
    /// # Errors
    /// A reason to leave the file alone.
    pub fn open(&mut self, file: &FileRecord) -> Result<OwnedFd, Unproven> {
        let directory = self.directory(file.directory).map_err(unopened)?;
        let name = self.view.known.scan.name_of(file);
        resolve::open_file(directory.as_fd(), name).map_err(unopened)
    }

    /// Opens, leases and reads a file that the walk found, if it is still the same.
    ///
    /// # Errors
    /// A reason to leave the file alone.
    pub fn read(&mut self, file: &FileRecord, mtime: Mtime) -> Result<Proven, Unproven> {
        self.lease(file)?.prove(mtime, &mut self.digester)
    }

    /// Reads one file with all of its `names` for what it is, and counts it. `None`, and it is counted, where that
    /// cannot be told.
    pub fn prove(&mut self, names: &[FileRecord], stats: &mut WorkerStats) -> Option<Proven> {
        let view = self.view;
        let file = &names[0];
        let size = file.size();
        let read = self.lease(file).and_then(|leased| {
            stats.counts.files_hashed += 1;
            stats.counts.bytes_hashed += size;
            leased.prove(view.question.mtime, &mut self.digester)
        });
        view.effort.progress.advance(size);
        let path = || view.known.host_path(file);
        read.map_err(|why| stats.unproven(why, path(), names.len() as u64, size))
            .ok()
    }

    /// A directory that the walk found, open; kept open for the next file in it.
    ///
    /// # Errors
    /// As [`resolve::open_directory`].
    pub fn directory(&mut self, directory: u32) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(open) = self.directories.get(&directory) {
            return Ok(Rc::clone(open));
        }
        let open = Rc::new(self.view.known.open(directory)?);
        if self.directories.len() >= self.view.effort.workers.budget.directories {
            self.directories.clear();
        }
        self.directories.insert(directory, Rc::clone(&open));
        Ok(open)
    }

    fn lease(&mut self, file: &FileRecord) -> Result<Leased, Unproven> {
        let leased = Leased::new(self.open(file)?)?;
        let seen = self.view.known.scan.stamp_of(file);
        if leased.stamp.is_unchanged_since(&seen) {
            Ok(leased)
        } else {
            Err(Unproven::Skipped(Skip::Changed))
        }
    }
}

fn unopened(errno: Errno) -> Unproven {
    match errno {
        // Gone, or something else took the place: a symbolic link, a mount.
        Errno::NOENT | Errno::LOOP | Errno::XDEV | Errno::NOTDIR => {
            Unproven::Skipped(Skip::Changed)
        }
        _ => FailedCall::of("openat2")(errno).into(),
    }
}
