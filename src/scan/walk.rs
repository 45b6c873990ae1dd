//! The walk: a task for each directory, on all threads of the pool, and what they find put together.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::Scope;
use rustix::io::Errno;

use super::directory::DirectoryReader;
use super::findings::Findings;
use super::names::Names;
use super::record::DirectoryRecord;
use super::{GuestId, KnownInodes, Request, Scan, join, narrow};
use crate::guest::InodeUsers;
use crate::outcome::{FileError, Progress, Skip};

/// Bytes asked of `getdents64(2)` at once: a thousand names or so.
const DIRECTORY_BUFFER: usize = 32 << 10;

/// One walk over several guests, shared by its threads.
pub(super) struct Walk<'a> {
    requests: &'a [Request<'a>],
    smallest: u64,
    known: Option<&'a KnownInodes<'a>>,
    users: &'a InodeUsers,
    wanted: &'a [u64],
    progress: &'a dyn Progress,
    directories: Mutex<Directories>,
    /// One for each thread, so that nobody waits for its lock.
    found: Vec<Mutex<Findings>>,
}

#[derive(Debug, Default)]
struct Directories {
    records: Vec<DirectoryRecord>,
    names: Names,
}

impl Directories {
    fn add(&mut self, parent: Option<u32>, guest: GuestId, name: &[u8]) -> u32 {
        let name = self.names.add(name);
        self.records.push(DirectoryRecord {
            parent,
            guest,
            name,
        });
        narrow(self.records.len() - 1)
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<MaybeUninit<u8>>> =
        RefCell::new(vec![MaybeUninit::uninit(); DIRECTORY_BUFFER]);
}

impl<'a> Walk<'a> {
    /// A walk over `requests` that has not begun; see [`super::scan`].
    pub(super) fn new(
        requests: &'a [Request<'a>],
        smallest: u64,
        known: Option<&'a KnownInodes<'a>>,
        users: &'a InodeUsers,
        wanted: &'a [u64],
        progress: &'a dyn Progress,
    ) -> Self {
        let threads = rayon::current_num_threads().max(1);
        Self {
            requests,
            smallest,
            known,
            users,
            wanted,
            progress,
            directories: Mutex::default(),
            found: (0..threads)
                .map(|_| Mutex::new(Findings::with_room()))
                .collect(),
        }
    }

    /// Spawns a task for the root directory of each guest.
    pub(super) fn start<'scope>(&'scope self, scope: &Scope<'scope>) {
        for (number, _) in self.requests.iter().enumerate() {
            let guest = GuestId::try_from(number).unwrap_or(GuestId::MAX);
            let directory = lock(&self.directories).add(None, guest, b"");
            scope.spawn(move |scope| self.visit(scope, guest, directory, b"", false));
        }
    }

    /// Reads one directory and spawns a task for each directory in it. `is_in_overlay`: whether a mounted overlay has a
    /// directory above it.
    fn visit<'scope>(
        &'scope self,
        scope: &Scope<'scope>,
        guest: GuestId,
        directory: u32,
        path: &[u8],
        is_in_overlay: bool,
    ) {
        let request = &self.requests[usize::from(guest)];
        let mut found = lock(&self.found[rayon::current_thread_index().unwrap_or(0)]);
        let files_before = found.files_seen;
        let mut reader = DirectoryReader {
            guest: request.guest,
            rules: request.rules,
            smallest: self.smallest,
            known: self.known,
            users: self.users,
            wanted: self.wanted,
            directory,
            device: 0,
            is_in_overlay,
            found: &mut found,
            full_path: [b"/", path].concat(),
            subdirectories: Vec::new(),
        };
        let read = BUFFER.with_borrow_mut(|buffer| reader.read(path, buffer));
        let (subdirectories, is_in_overlay) = (reader.subdirectories, reader.is_in_overlay);
        match read {
            // Gone since its parent was read.
            Ok(()) | Err((_, Errno::NOENT)) => {}
            // A mount point is never crossed.
            Err((_, Errno::XDEV)) => found.skipped.add(Skip::MountPoint, 1),
            Err((call, errno)) => {
                let path = request.guest.path_of(path);
                found
                    .errors
                    .push(FileError::call(call, path, &errno.into()));
            }
        }
        let files = found.files_seen - files_before;
        drop(found);
        self.progress.advance(files);

        let mut directories = lock(&self.directories);
        for name in subdirectories {
            let child = directories.add(Some(directory), guest, &name);
            let path = join(path, &name);
            scope.spawn(move |scope| self.visit(scope, guest, child, &path, is_in_overlay));
        }
    }

    /// Puts together what the threads found.
    pub(super) fn gather(self) -> Scan {
        let directories = into_inner(self.directories);
        let mut scan = Scan {
            directories: directories.records,
            directory_names: directories.names,
            ..Scan::default()
        };
        for found in self.found {
            let mut found = into_inner(found);
            if scan.files.is_empty() {
                scan.files = found.files;
                scan.names = found.names;
                scan.permissions = found.permissions;
            } else {
                let rows = found.permissions.all().iter();
                let numbers: Vec<u32> = rows.map(|row| scan.permissions.number(*row)).collect();
                let base = scan.names.append(&mut found.names);
                for file in &mut found.files {
                    file.name += base;
                    file.permissions = numbers[file.permissions as usize];
                }
                move_all(&mut found.files, &mut scan.files);
            }
            scan.keep_names.extend(found.keep_names);
            scan.in_overlay.extend(found.in_overlay);
            scan.used.extend(found.used);
            scan.wanted.extend(found.wanted);
            scan.leftovers.append(&mut found.leftovers);
            scan.errors.append(&mut found.errors);
            scan.skipped.merge(&found.skipped);
            scan.files_seen += found.files_seen;
            scan.bytes_seen += found.bytes_seen;
        }
        scan
    }
}

/// Moves all of `from` to the end of `to`, and gives memory back as it goes, so that nothing is held
/// twice. The order changes.
fn move_all<T>(from: &mut Vec<T>, to: &mut Vec<T>) {
    /// A megabyte or so.
    const AT_ONCE: usize = 1 << 14;
    to.reserve_exact(from.len());
    while !from.is_empty() {
        let rest = from.len().saturating_sub(AT_ONCE);
        to.extend(from.drain(rest..));
        from.shrink_to_fit();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
