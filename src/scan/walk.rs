//! The walk: a task for each directory, on all threads of the pool, and what they find put together.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::Scope;
use rustix::io::Errno;
use vhashify_sys::resolve;

use super::directory::DirectoryReader;
use super::findings::Findings;
use super::names::Names;
use super::record::DirectoryRecord;
use super::{GuestId, KnownInodes, Request, Scan, join, narrow};
use crate::guest::InodeUsers;
use crate::outcome::{FileError, Progress, Skip};

/// Bytes asked of `getdents64(2)` at once: a thousand names or so.
const DIRECTORY_BUFFER: usize = 32 << 10;

/// Directories above one another, and bytes of their path, down to which the walk goes. No installed system comes near
/// them. A file's directory is opened by its path later, and a guest could make that dear.
const DEEPEST: u32 = 500;
const LONGEST: usize = 32 << 10;
/// From this depth on, a directory is opened by its name in the one above: shallower ones by their paths, so that a
/// waiting task holds no descriptor.
const DEEP: u32 = 64;
/// Directories that are open for those in them at once.
const MOST_OPEN: usize = 512;

/// A directory that stays open until those in it have been read.
struct Above<'a> {
    directory: OwnedFd,
    count: &'a AtomicUsize,
}

impl Drop for Above<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A directory that waits to be read.
#[derive(Clone)]
struct Waiting<'a> {
    guest: GuestId,
    number: u32,
    /// The path below the vdir of the directory above, which all in it share.
    parent: Arc<[u8]>,
    name: Vec<u8>,
    /// How many directories are above it.
    depth: u32,
    /// The one above, where that stays open.
    above: Option<Arc<Above<'a>>>,
    /// Whether a mounted overlay has a directory above it.
    is_in_overlay: bool,
}

/// One walk over several guests, shared by its threads.
pub(super) struct Walk<'a> {
    requests: &'a [Request<'a>],
    smallest: u64,
    known: Option<&'a KnownInodes<'a>>,
    users: &'a InodeUsers,
    wanted: &'a [u64],
    progress: &'a dyn Progress,
    directories: Mutex<Directories>,
    /// How many directories stay open for others.
    open: AtomicUsize,
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
            open: AtomicUsize::new(0),
            found: (0..threads)
                .map(|_| Mutex::new(Findings::with_room()))
                .collect(),
        }
    }

    /// Spawns a task for the root directory of each guest.
    pub(super) fn start<'scope>(&'scope self, scope: &Scope<'scope>) {
        for (number, _) in self.requests.iter().enumerate() {
            let guest = GuestId::try_from(number).unwrap_or(GuestId::MAX);
            let top = Waiting {
                guest,
                number: lock(&self.directories).add(None, guest, b""),
                parent: Arc::default(),
                name: Vec::new(),
                depth: 0,
                above: None,
                is_in_overlay: false,
            };
            scope.spawn(move |scope| self.visit(scope, &top));
        }
    }

    /// Reads one directory and spawns a task for each directory in it.
    fn visit<'scope>(&'scope self, scope: &Scope<'scope>, this: &Waiting<'scope>) {
        let request = &self.requests[usize::from(this.guest)];
        let path = join(&this.parent, &this.name);
        let mut found = lock(&self.found[rayon::current_thread_index().unwrap_or(0)]);
        let files_before = found.files_seen;
        let mut reader = DirectoryReader {
            guest: request.guest,
            rules: request.rules,
            smallest: self.smallest,
            known: self.known,
            users: self.users,
            wanted: self.wanted,
            directory: this.number,
            device: 0,
            is_in_overlay: this.is_in_overlay,
            found: &mut found,
            full_path: [b"/", path.as_slice()].concat(),
            subdirectories: Vec::new(),
        };
        let opened = match &this.above {
            Some(above) => resolve::open_directory(above.directory.as_fd(), &this.name),
            None => resolve::open_directory(request.guest.root.as_fd(), &path),
        };
        let opened = opened.map_err(|errno| ("openat2", errno));
        let read = opened.and_then(|opened| {
            BUFFER.with_borrow_mut(|buffer| reader.read(opened.as_fd(), buffer))?;
            Ok(opened)
        });
        let (subdirectories, is_in_overlay) = (reader.subdirectories, reader.is_in_overlay);
        let opened = match read {
            Ok(opened) => Some(opened),
            // Gone since its parent was read.
            Err((_, Errno::NOENT)) => None,
            // A mount point is never crossed.
            Err((_, Errno::XDEV)) => {
                found.skipped.add(Skip::MountPoint, 1);
                None
            }
            Err((call, errno)) => {
                let path = request.guest.path_of(&path);
                found
                    .errors
                    .push(FileError::call(call, path, &errno.into()));
                None
            }
        };
        let files = found.files_seen - files_before;
        let is_deepest = this.depth >= DEEPEST || path.len() > LONGEST;
        if is_deepest {
            found
                .skipped
                .add(Skip::TooDeep, subdirectories.len() as u64);
        }
        drop(found);
        self.progress.advance(files);
        if is_deepest || subdirectories.is_empty() {
            return;
        }
        let above = opened.and_then(|opened| self.keep_open(opened, this.depth));
        let parent: Arc<[u8]> = path.into();
        let mut directories = lock(&self.directories);
        for name in subdirectories {
            let child = Waiting {
                guest: this.guest,
                number: directories.add(Some(this.number), this.guest, &name),
                parent: Arc::clone(&parent),
                name,
                depth: this.depth + 1,
                above: above.clone(),
                is_in_overlay,
            };
            scope.spawn(move |scope| self.visit(scope, &child));
        }
    }

    /// Keeps a deep directory open for those in it.
    fn keep_open(&self, directory: OwnedFd, depth: u32) -> Option<Arc<Above<'_>>> {
        if depth < DEEP {
            return None;
        }
        let above = Above {
            directory,
            count: &self.open,
        };
        // Dropping one counts down.
        let is_one_too_many = self.open.fetch_add(1, Ordering::Relaxed) >= MOST_OPEN;
        (!is_one_too_many).then(|| Arc::new(above))
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
