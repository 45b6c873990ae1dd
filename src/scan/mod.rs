//! Walks vdirs in parallel and yields every regular file that may be unified.
//!
//! One task a directory: open it from the vdir's descriptor ([`resolve`]), read its names in large
//! batches, ask the exclusion rules, `statx` what is left and not [`Known`]. No task holds a descriptor while it
//! waits, so that a million pending directories cost memory and not descriptors; no file costs an
//! allocation, a lock or a whole path.
//!
//! What is kept of a file is 60 bytes, and its name where it is not that of a file of another guest:
//!
//! ```text
//! FileRecord ─ directory ───▶ DirectoryRecord ─ parent ─▶ … ─ parent ─▶ the vdir of a guest
//!     ├─ name ──────────────▶ bytes in one string for all
//!     └─ mode, owner, group ▶ one row for all files that have the same
//! ```

mod names;
mod record;

use std::cell::RefCell;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::Scope;
use rustix::fs::{AtFlags, FileType, RawDir, RawDirEntry, Statx, StatxAttributes};
use rustix::io::Errno;

pub use record::FileRecord;

use names::Names;
use record::{DirectoryRecord, Permissions, PermissionsTable};

use crate::exclude::{Rules, Verdict};
use crate::guest::Guest;
use crate::outcome::{FileError, Progress, Skip, Skipped};
use crate::relink::temporary;
use vhashify_sys::resolve;
use vhashify_sys::stamp::Stamp;

/// Bytes asked of `getdents64(2)` at once: a thousand names or so.
const DIRECTORY_BUFFER: usize = 32 << 10;

/// The position of a guest among those that are scanned together.
pub type GuestId = u16;

/// One guest to be walked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The guest.
    pub guest: &'a Guest,
    /// What of it is left out.
    pub rules: &'a Rules,
}

/// Inodes that were looked at before the walk, so that it does not do it again for each of their names:
/// after the first run that is most of what guests hold. The number beside a name in its directory
/// tells the inode on the same filesystem.
pub struct Known<'a> {
    /// The filesystem (`st_dev`). On Btrfs each subvolume has one, and its own inode numbers.
    pub device: u64,
    /// What was seen of the inode with this number, if it is one of them.
    pub stamp_of: &'a (dyn Fn(u64) -> Option<Stamp> + Sync),
}

/// A temporary name that an interrupted run left behind.
#[derive(Debug, Clone)]
pub struct Leftover {
    /// The directory it stands in.
    pub directory: u32,
    /// The name.
    pub name: Vec<u8>,
}

/// All that a walk found.
#[derive(Debug, Default)]
pub struct Scan {
    /// The files, in no particular order.
    pub files: Vec<FileRecord>,
    /// Temporary names of an interrupted run.
    pub leftovers: Vec<Leftover>,
    /// What was skipped, by reason.
    pub skipped: Skipped,
    /// What could not be read.
    pub errors: Vec<FileError>,
    /// Count of all regular files that were looked at.
    pub files_seen: u64,
    /// Bytes of content of these.
    pub bytes_seen: u64,
    directories: Vec<DirectoryRecord>,
    directory_names: Names,
    names: Names,
    permissions: PermissionsTable,
}

impl Scan {
    /// The guest that a directory belongs to.
    #[must_use]
    pub fn guest_of(&self, directory: u32) -> GuestId {
        self.directories[directory as usize].guest
    }

    /// A file's name in its directory.
    #[must_use]
    pub fn name_of(&self, file: &FileRecord) -> &[u8] {
        self.names.get(file.name)
    }

    /// A file's inode, as it was.
    #[must_use]
    pub fn stamp_of(&self, file: &FileRecord) -> Stamp {
        file.stamp(self.permissions.get(file.permissions()))
    }

    /// What [`FileRecord::permissions`] is of files with the mode, owner and group of `stamp`, if
    /// there are any.
    #[must_use]
    pub fn permissions_of(&self, stamp: &Stamp) -> Option<u32> {
        self.permissions.find(Permissions::of(stamp))
    }

    /// A directory's path below its vdir, without a leading slash; empty for the vdir itself.
    #[must_use]
    pub fn directory_path(&self, directory: u32) -> Vec<u8> {
        let mut components = Vec::new();
        let mut at = &self.directories[directory as usize];
        while let Some(parent) = at.parent {
            components.push(self.directory_names.get(at.name));
            at = &self.directories[parent as usize];
        }
        components.reverse();
        components.join(b"/".as_slice())
    }

    /// A file's path below its vdir, without a leading slash.
    #[must_use]
    pub fn path_of(&self, file: &FileRecord) -> Vec<u8> {
        join(&self.directory_path(file.directory), self.name_of(file))
    }
}

/// Walks all `requests` on the threads of the current rayon pool, and looks at every inode that is not
/// `known`.
///
/// Files smaller than `smallest` bytes are skipped. An unreadable directory is an error of the
/// report, and the walk goes on.
#[must_use]
pub fn scan(
    requests: &[Request<'_>],
    smallest: u64,
    known: Option<&Known<'_>>,
    progress: &dyn Progress,
) -> Scan {
    let walk = Walk {
        requests,
        smallest,
        known,
        progress,
        directories: Mutex::default(),
        found: (0..rayon::current_num_threads().max(1))
            .map(|_| Mutex::new(Found::with_room()))
            .collect(),
    };
    rayon::scope(|scope| {
        for (number, _) in requests.iter().enumerate() {
            let guest = GuestId::try_from(number).unwrap_or(GuestId::MAX);
            let directory = lock(&walk.directories).add(None, guest, b"");
            let walk = &walk;
            scope.spawn(move |scope| walk.visit(scope, guest, directory, b""));
        }
    });
    walk.gather()
}

/// What one walk shares among its threads.
struct Walk<'a> {
    requests: &'a [Request<'a>],
    smallest: u64,
    known: Option<&'a Known<'a>>,
    progress: &'a dyn Progress,
    directories: Mutex<Directories>,
    /// One for each thread, so that nobody waits for its lock.
    found: Vec<Mutex<Found>>,
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

/// What one thread found.
#[derive(Debug, Default)]
struct Found {
    files: Vec<FileRecord>,
    names: Names,
    permissions: PermissionsTable,
    leftovers: Vec<Leftover>,
    skipped: Skipped,
    errors: Vec<FileError>,
    files_seen: u64,
    bytes_seen: u64,
}

impl Found {
    /// Room for the files of a middling host, as addresses and not as memory: so large a piece the
    /// allocator maps by itself, and where it must grow after all, the kernel moves its pages.
    /// Grown from nothing it would be copied from one piece of the heap to the next, and the pieces
    /// left behind would count as memory of this process: half as much again.
    fn with_room() -> Self {
        const FILES: usize = 1 << 19;
        const NAMES: usize = 48 << 20;
        Self {
            files: Vec::with_capacity(FILES),
            names: Names::with_room(NAMES),
            ..Self::default()
        }
    }
}

thread_local! {
    static BUFFER: RefCell<Vec<MaybeUninit<u8>>> =
        RefCell::new(vec![MaybeUninit::uninit(); DIRECTORY_BUFFER]);
}

impl Walk<'_> {
    /// Reads one directory and spawns a task for each directory in it.
    fn visit<'scope>(
        &'scope self,
        scope: &Scope<'scope>,
        guest: GuestId,
        directory: u32,
        path: &[u8],
    ) {
        let request = &self.requests[usize::from(guest)];
        let mut found = lock(&self.found[rayon::current_thread_index().unwrap_or(0)]);
        let files_before = found.files_seen;
        let mut visit = Visit {
            guest: request.guest,
            rules: request.rules,
            smallest: self.smallest,
            known: self.known,
            directory,
            found: &mut found,
            full_path: [b"/", path].concat(),
            subdirectories: Vec::new(),
        };
        let read = BUFFER.with_borrow_mut(|buffer| visit.read(path, buffer));
        let subdirectories = visit.subdirectories;
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
            scope.spawn(move |scope| self.visit(scope, guest, child, &path));
        }
    }

    /// Puts together what the threads found.
    fn gather(self) -> Scan {
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
            scan.leftovers.append(&mut found.leftovers);
            scan.errors.append(&mut found.errors);
            scan.skipped.merge(&found.skipped);
            scan.files_seen += found.files_seen;
            scan.bytes_seen += found.bytes_seen;
        }
        scan
    }
}

/// The reading of one directory.
struct Visit<'a> {
    guest: &'a Guest,
    rules: &'a Rules,
    smallest: u64,
    known: Option<&'a Known<'a>>,
    directory: u32,
    found: &'a mut Found,
    /// `/usr/bin` while `usr/bin` is read; a name is appended to ask the rules, and cut off again.
    full_path: Vec<u8>,
    subdirectories: Vec<Vec<u8>>,
}

impl Visit<'_> {
    fn read(
        &mut self,
        path: &[u8],
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<(), (&'static str, Errno)> {
        let opened = resolve::open_directory(self.guest.root.as_fd(), path)
            .map_err(|errno| ("openat2", errno))?;
        if let Some(known) = self.known {
            let directory = rustix::fs::fstat(&opened).map_err(|errno| ("fstat", errno))?;
            self.known = Some(known).filter(|known| known.device == directory.st_dev);
        }
        let mut entries = RawDir::new(opened.as_fd(), buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.map_err(|errno| ("getdents64", errno))?;
            self.entry(opened.as_fd(), &entry);
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
            // Old filesystems do not say; the look at the inode will.
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

    /// Whether the name of a file is to be looked at; what is not is counted.
    fn is_included(&mut self, name: &[u8]) -> bool {
        if temporary::is_one(name) {
            let leftover = Leftover {
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

/// `directory/name`, where the vdir itself is the empty path.
fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, name].join(b"/".as_slice())
    }
}

/// Four thousand million directories, or bytes of names, are beyond any host.
fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
