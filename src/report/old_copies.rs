//! Finds processes that still map files that a run replaced: to restart them frees memory and disk.
//!
//! A process that mapped a library before it was unified keeps the old inode until it unmaps it.
//! `/proc/PID/maps` shows such a file as `(deleted)`, under its last name, which was a temporary one: its content tells
//! which file it was ([`displaced`](super::displaced)). Up to version 0.1 the temporary name stood beside that file, and
//! was computed from its name. A file that a package manager replaced before shows the name itself.
//!
//! The report lists a mapping only if the file at its path is an object today. Otherwise a restart lets the process
//! share nothing.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;
use serde::Serialize;
use vhashify_sys::procfs::{self, is_gone};
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::Stamp;
use vhashify_sys::{page_cache, resolve};

use super::displaced::Displaced;
use super::survey::Survey;
use crate::guest::Guest;
use crate::relink::temporary::{self, Purpose};

/// Replaced files that processes still map.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OldCopies {
    /// Bytes that these files take in the page cache, each inode once, if the kernel tells.
    pub page_cache_bytes: Option<u64>,
    /// Bytes that they take on the disk, each inode once.
    pub bytes: u64,
    /// The processes, those with most bytes first.
    pub processes: Vec<ProcessCopies>,
    /// Processes whose mappings could not be read.
    pub unseen_processes: u64,
}

/// A process and the old copies that it maps.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessCopies {
    /// Its number on the host.
    pub process: u32,
    /// Its name (`/proc/PID/comm`).
    pub command: String,
    /// The guest whose files they are.
    pub guest: String,
    /// The files.
    pub files: Vec<OldCopy>,
}

/// A replaced file that a process still maps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OldCopy {
    /// Its path, as the guest sees it.
    pub path: String,
    /// Whether it is an older version of the file at this path now, rather than an equal copy.
    pub is_older: bool,
    /// Its bytes on the disk.
    pub bytes: u64,
    /// Its bytes in the page cache, if the kernel tells.
    pub page_cache_bytes: Option<u64>,
}

impl ProcessCopies {
    /// Bytes of its old copies on the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Bytes of its old copies in the page cache, if the kernel tells.
    #[must_use]
    pub fn page_cache_bytes(&self) -> Option<u64> {
        self.files.iter().map(|file| file.page_cache_bytes).sum()
    }
}

/// Finds old copies among the mappings of every process of this host.
#[must_use]
pub fn old_copies(survey: &Survey<'_>) -> OldCopies {
    let mut found = OldCopies {
        page_cache_bytes: Some(0),
        ..OldCopies::default()
    };
    let mut processes = Vec::new();
    for number in procfs::processes().unwrap_or_default() {
        match Process::read(number.cast_unsigned()) {
            Ok(Some(process)) => processes.push(process),
            Ok(None) => {}
            Err(_) => found.unseen_processes += 1,
        }
    }
    let paths = GuestPaths::of(survey.guests, &processes);
    let mut displaced = Displaced::new(survey);
    let mut inodes: HashMap<u64, OldCopy> = HashMap::new();
    for process in &processes {
        let mut by_guest: HashMap<usize, Vec<OldCopy>> = HashMap::new();
        for range in &process.deleted {
            let Some((guest, inode, copy)) =
                old_copy(survey, &paths, &mut displaced, process, range)
            else {
                continue;
            };
            inodes.entry(inode).or_insert_with(|| copy.clone());
            by_guest.entry(guest).or_default().push(copy);
        }
        for (guest, mut files) in by_guest {
            // A process maps a library in several pieces.
            files.sort();
            files.dedup_by(|one, other| one.path == other.path);
            found.processes.push(ProcessCopies {
                process: process.number,
                command: process.command(),
                guest: Shown::bytes(survey.guests[guest].name.as_bytes()).to_string(),
                files,
            });
        }
    }
    for copy in inodes.values() {
        found.bytes += copy.bytes;
        found.page_cache_bytes = found
            .page_cache_bytes
            .zip(copy.page_cache_bytes)
            .map(|(all, one)| all + one);
    }
    found
        .processes
        .sort_by_key(|process| (std::cmp::Reverse(process.bytes()), process.process));
    found
}

/// A process that maps deleted files, as `/proc` shows it.
struct Process {
    number: u32,
    /// Device and inode of its root directory.
    root: Option<(u64, u64)>,
    /// The path of its root directory in this process's mount namespace; `/` if that is in another one.
    root_path: PathBuf,
    mount_namespace: PathBuf,
    /// Its mappings of deleted files, by their names in `/proc/PID/map_files`, one for each inode.
    deleted: Vec<String>,
}

impl Process {
    /// Reads a process; `None` if it maps no deleted file or has ended.
    fn read(number: u32) -> std::io::Result<Option<Self>> {
        let file = |name| procfs::path(number, name);
        let maps = match fs::read(file("maps")) {
            Ok(maps) => maps,
            Err(error) if Errno::from_io_error(&error).is_some_and(is_gone) => return Ok(None),
            Err(error) => return Err(error),
        };
        let deleted = deleted_mappings(&maps);
        if deleted.is_empty() {
            return Ok(None);
        }
        let root = device_and_stamp(&file("root"));
        Ok(Some(Self {
            number,
            root: root.map(|(device, stamp)| (device, stamp.inode)),
            root_path: fs::read_link(file("root")).unwrap_or_default(),
            mount_namespace: fs::read_link(file("ns/mnt")).unwrap_or_default(),
            deleted,
        }))
    }

    fn command(&self) -> String {
        let name = fs::read(procfs::path(self.number, "comm")).unwrap_or_default();
        let name = name.strip_suffix(b"\n").unwrap_or(&name);
        Shown::bytes(name).to_string()
    }
}

/// The names in `/proc/PID/map_files` of mappings of deleted files, one for each inode.
///
/// A line is `start-end permissions offset device inode path`, see `proc_pid_maps(5)`.
fn deleted_mappings(maps: &[u8]) -> Vec<String> {
    // A process may map as many files as the kernel allows: 65,530.
    let mut seen = HashSet::new();
    let mut ranges = Vec::new();
    for line in maps.split(|&byte| byte == b'\n') {
        if !line.ends_with(DELETED) {
            continue;
        }
        let mut fields = line.split(|&byte| byte == b' ');
        let (range, inode) = (fields.next(), fields.nth(3));
        let (Some(range), Some(inode)) = (range.and_then(map_file_name), inode) else {
            continue;
        };
        if seen.insert(inode) {
            ranges.push(range);
        }
    }
    ranges
}

/// The kernel appends this to the path of a deleted file.
const DELETED: &[u8] = b" (deleted)";

/// The name in `map_files` of an address range in `maps`, which pads addresses with zeros.
fn map_file_name(range: &[u8]) -> Option<String> {
    let (start, end) = std::str::from_utf8(range).ok()?.split_once('-')?;
    let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16));
    Some(format!("{:x}-{:x}", start.ok()?, end.ok()?))
}

/// Translates the paths that `/proc` shows for a process into paths of a guest.
struct GuestPaths<'a> {
    guests: &'a [&'a Guest],
    /// The guest of each mount namespace, except this process's, in which a process has a guest's root directory.
    namespaces: HashMap<&'a Path, usize>,
}

impl<'a> GuestPaths<'a> {
    fn of(guests: &'a [&'a Guest], processes: &'a [Process]) -> Self {
        let own = fs::read_link(procfs::path("self", "ns/mnt")).unwrap_or_default();
        let mut this = Self {
            guests,
            namespaces: HashMap::new(),
        };
        for process in processes {
            if let Some(guest) = this.guest_of_root(process)
                && process.mount_namespace != own
            {
                this.namespaces.insert(&process.mount_namespace, guest);
            }
        }
        this
    }

    fn guest_of_root(&self, process: &Process) -> Option<usize> {
        self.guests
            .iter()
            .position(|guest| process.root == Some((guest.device, guest.inode)))
    }

    /// The guest whose process it is, as far as its root directory or mount namespace tells.
    fn guest_of(&self, process: &Process) -> Option<usize> {
        self.guest_of_root(process).or_else(|| {
            let namespace = process.mount_namespace.as_path();
            self.namespaces.get(namespace).copied()
        })
    }

    /// The guest, and the path below its vdir, of a `path` that `/proc` shows of a process.
    fn resolve(&self, process: &Process, path: &Path) -> Option<(usize, PathBuf)> {
        if let Some(guest) = self.guest_of_root(process) {
            let below = path.strip_prefix(&process.root_path).ok()?;
            return Some((guest, relative(below)));
        }
        let holder = self
            .guests
            .iter()
            .enumerate()
            .find_map(|(at, guest)| Some((at, path.strip_prefix(&guest.vdir).ok()?)));
        if let Some((guest, below)) = holder {
            return Some((guest, relative(below)));
        }
        let guest = *self.namespaces.get(process.mount_namespace.as_path())?;
        Some((guest, relative(path)))
    }
}

fn relative(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_path_buf()
}

/// The old copy behind a mapping of a deleted file: the guest's position, the old inode, the file. `None` if the mapping
/// is of another kind.
fn old_copy(
    survey: &Survey<'_>,
    paths: &GuestPaths<'_>,
    displaced: &mut Displaced<'_>,
    process: &Process,
    range: &str,
) -> Option<(usize, u64, OldCopy)> {
    let link = procfs::path(process.number, &format!("map_files/{range}"));
    let shown = fs::read_link(&link).ok()?;
    let path = shown.as_os_str().as_bytes().strip_suffix(DELETED)?;
    let path = Path::new(OsStr::from_bytes(path));
    let (device, was) = device_and_stamp(&link)?;
    if !was.is_regular() || survey.objects.contains_key(&was.inode) {
        return None;
    }
    let on_its_filesystem = |guest: usize| survey.guests[guest].device == device;
    let (guest, path, is_older) = if Displaced::is_one(path) {
        let guest = paths.guest_of(process);
        if !(0..survey.guests.len()).any(on_its_filesystem) {
            return None;
        }
        let found = displaced.find(guest, &link, &was)?;
        (found.guest, found.path, false)
    } else {
        let (guest, path) = paths.resolve(process, path)?;
        if !on_its_filesystem(guest) {
            return None;
        }
        let (path, now) = object_at(survey, guest, &path)?;
        (guest, path, (was.size, was.mtime) != (now.size, now.mtime))
    };
    // The file is on the vdir's filesystem, so this open does not wait for a FUSE server of the guest.
    let old = File::open(&link).ok()?;
    let copy = OldCopy {
        path: Shown::path(&Path::new("/").join(path)).to_string(),
        is_older,
        bytes: was.allocated,
        page_cache_bytes: page_cache::resident_bytes(old.as_fd(), was.size).ok(),
    };
    Some((guest, was.inode, copy))
}

/// The object that stands at a path below a vdir today, or at the one that a temporary name at its end served.
fn object_at(survey: &Survey<'_>, guest: usize, path: &Path) -> Option<(PathBuf, Stamp)> {
    let root = survey.guests[guest].root.as_fd();
    let directory = path.parent().unwrap_or(Path::new(""));
    let opened = resolve::open_directory(root, directory.as_os_str().as_bytes()).ok()?;
    let name = name_now(&opened, path.file_name()?.as_bytes())?;
    let now = Stamp::at(opened.as_fd(), name.as_slice()).ok()?;
    let is_object = survey.objects.contains_key(&now.inode);
    is_object.then(|| (directory.join(OsStr::from_bytes(&name)), now))
}

/// The device and the stamp of the file behind a link of `/proc`. With `AT_STATX_DONT_SYNC` the kernel asks no FUSE
/// server of the guest, which might never answer. The attributes that it has cached show the file's device.
fn device_and_stamp(link: &Path) -> Option<(u64, Stamp)> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(rustix::fs::CWD, link, flags, Stamp::MASK).ok()?;
    let device = rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor);
    Some((device, Stamp::from(found)))
}

/// The name in `directory` that a file with the last name `name` has today: the one that a temporary name was
/// computed from, or the same.
fn name_now(directory: &OwnedFd, name: &[u8]) -> Option<Vec<u8>> {
    let Some((Purpose::Share, digits)) = temporary::parts(name) else {
        return Some(name.to_vec());
    };
    let names = resolve::names(directory.as_fd()).ok()?;
    let mut names = names.into_iter();
    names.find(|other| temporary::digits(other) == digits)
}

#[cfg(test)]
mod tests {
    use super::deleted_mappings;

    #[test]
    fn what_has_no_name_is_found_once() {
        let maps = b"\
00400000-00452000 r-xp 00000000 08:02 173521 /usr/bin/dbus-daemon
7f00a000-7f00b000 r--p 00000000 08:02 135522 /lib/.vhashify-0123456789abcdef0123456789abcdef (deleted)
7f00b000-7f00c000 r-xp 00001000 08:02 135522 /lib/.vhashify-0123456789abcdef0123456789abcdef (deleted)
7f010000-7f011000 rw-s 00000000 00:01 99     /dev/zero (deleted)
7ffd0000-7ffd1000 rw-p 00000000 00:00 0      [stack]
";
        assert_eq!(
            deleted_mappings(maps),
            ["7f00a000-7f00b000", "7f010000-7f011000"]
        );
        assert!(deleted_mappings(b"").is_empty());
        assert!(deleted_mappings(b" (deleted)\nx-y z (deleted)").is_empty());
    }
}
