//! Opens names below a directory and nowhere else.
//!
//! A guest's administrator may swap a directory for a symbolic link, or mount something, at any moment. So
//! `openat2(2)` resolves every path of a guest from the descriptor of its vdir: the kernel itself refuses symbolic
//! links, `..` past the top and other mounts while it resolves, and leaves no time between a check and its use.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Result;

use super::fault::{self, Point};
use super::procfs::descriptor_path;

/// Never out of the tree, never through a symbolic link, never onto another mount.
const STRICT: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The kernel refuses a path string of `PATH_MAX` (4,096) bytes or more; a deeper directory is
/// reached in several steps of at most this many bytes.
const LONGEST_STEP: usize = 4000;

/// Opens the directory at `path` (relative, without `.` and `..`; empty for `top` itself).
///
/// Works for directories deeper than `PATH_MAX`.
///
/// # Errors
/// `ELOOP` for a symbolic link on the way, `EXDEV` for a mount point, and what `openat2(2)` lists.
pub fn open_directory(top: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    fault::at(Point::OpenDirectory, || open_in_steps(top, path))
}

fn open_in_steps(top: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    const DIRECTORY: OFlags = OFlags::RDONLY
        .union(OFlags::DIRECTORY)
        .union(OFlags::NOFOLLOW)
        .union(OFlags::CLOEXEC);
    let (mut step, mut rest) = split_step(path);
    let mut directory = open_strict(top, step, DIRECTORY)?;
    while !rest.is_empty() {
        (step, rest) = split_step(rest);
        directory = open_strict(directory.as_fd(), step, DIRECTORY)?;
    }
    Ok(directory)
}

/// Opens the regular file `name` of `directory` for reading.
///
/// `O_NONBLOCK` keeps the caller from waiting for a FIFO that has replaced the file; the caller checks the type on the
/// descriptor.
///
/// # Errors
/// As [`open_directory`].
pub fn open_file(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    const FILE: OFlags = OFlags::RDONLY
        .union(OFlags::NOFOLLOW)
        .union(OFlags::NONBLOCK)
        .union(OFlags::NOCTTY)
        .union(OFlags::NOATIME)
        .union(OFlags::CLOEXEC);
    fault::at(Point::OpenFile, || open_strict(directory, name, FILE))
}

/// Opens `name` of `directory` by `O_PATH`, whatever it is: no FIFO or device is touched, and a symbolic link is the
/// link itself.
///
/// # Errors
/// As [`open_directory`].
pub fn open_any(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_strict(directory, name, flags)
}

/// Finds what a process with the root directory `root` has at the absolute `path`: by `O_PATH`, through its symbolic
/// links and its mounts. It waits for no disk and no server, which could be the guest's own.
///
/// # Errors
/// `EAGAIN` where the kernel does not have all of the path in memory, which is where no mount keeps it there;
/// and what `openat2(2)` lists.
pub fn find_cached(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    /// Somebody renames something right now.
    const TRIES: u32 = 3;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::CACHED;
    let open = || rustix::fs::openat2(root, path, flags, Mode::empty(), resolve);
    let mut found = open();
    for _ in 1..TRIES {
        if !matches!(
            found,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR)
        ) {
            break;
        }
        found = open();
    }
    found
}

/// The inode number of `name` in `directory`; of a symbolic link, the link's own.
///
/// # Errors
/// What `statx(2)` lists; `ENOENT` when the name is gone.
pub fn inode_of(directory: BorrowedFd<'_>, name: &[u8]) -> Result<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name, flags, StatxFlags::INO).map(|found| found.stx_ino)
}

/// The names in `directory`, without `.` and `..`, in no particular order.
///
/// # Errors
/// What `getdents64(2)` lists.
pub fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push(name.to_vec());
        }
    }
    Ok(found)
}

/// Opens a directory of the host (a vdir, a store) by its path.
///
/// # Errors
/// What `open(2)` lists.
pub fn open_host_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The path of an open file, from the root of its mount namespace; for a file without a name, the kernel's words for it
/// (`anon_inode:…`, `… (deleted)`).
///
/// # Errors
/// What `readlink(2)` lists.
pub fn path_of(file: BorrowedFd<'_>) -> Result<Vec<u8>> {
    rustix::fs::readlink(descriptor_path(&file), Vec::new()).map(CString::into_bytes)
}

/// Names that this thread has had resolved by [`open_directory`] and its like: for tests of how that grows.
#[cfg(feature = "fault-injection")]
#[must_use]
pub fn names_resolved() -> usize {
    NAMES.get()
}

#[cfg(feature = "fault-injection")]
thread_local! {
    static NAMES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn open_strict(top: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    #[cfg(feature = "fault-injection")]
    NAMES.set(NAMES.get() + path.split(|&byte| byte == b'/').count());
    let path = if path.is_empty() { b"." } else { path };
    let path = OsStr::from_bytes(path);
    loop {
        // EAGAIN: a rename elsewhere has made the kernel's check of `..` uncertain.
        match rustix::fs::openat2(top, path, flags, Mode::empty(), STRICT) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Splits off the longest run of whole components that one call can take.
fn split_step(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= LONGEST_STEP {
        return (path, b"");
    }
    let slash = path[..LONGEST_STEP].iter().rposition(|&byte| byte == b'/');
    // A component is at most 255 bytes long, so that there is a slash in any 4,000 of them.
    slash.map_or((path, b"".as_slice()), |slash| {
        (&path[..slash], &path[slash + 1..])
    })
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_STEP, split_step};

    #[test]
    fn steps_are_whole_components_and_lose_nothing() {
        let path = vec!["component"; 2000].join("/").into_bytes();
        let (mut rest, mut joined) = (path.as_slice(), Vec::new());
        while !rest.is_empty() {
            let step;
            (step, rest) = split_step(rest);
            assert!(step.len() <= LONGEST_STEP && !step.ends_with(b"/") && !step.starts_with(b"/"));
            joined.push(step.to_vec());
        }
        assert_eq!(joined.join(b"/".as_slice()), path);
    }
}
