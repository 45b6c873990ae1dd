//! Resolves a path as the kernel resolves it for the caller, whose `/proc/self` is another one than the broker's.
//!
//! | what the path has | how the kernel finds it for the broker |
//! | --- | --- |
//! | names and symbolic links | by one `openat2(2)` from the caller's root, or from its directory where it leads nowhere out of that |
//! | a link of `/proc` to a process's root, directory or descriptor; `..` out of its directory; nothing at its end | name by name |
//!
//! The links of `/proc/PID` lead to the same place whoever follows them, but only without `RESOLVE_IN_ROOT`, which
//! refuses them. `/proc/self` and `/proc/thread-self` are the reader's own: the walk takes the number that the caller
//! has in the pid namespace of that very procfs ([`own_numbers`]), wherever it is mounted.
//!
//! What the walk cannot tell is `EPERM`. So "not found" says that the caller, too, will find nothing there, unless it
//! changes its tree meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags, openat,
    openat2, readlinkat, statx,
};
use rustix::io::Errno;
use vhashify_sys::filesystem_kind::FilesystemKind;
use vhashify_sys::procfs::own_numbers;

/// Symbolic links that the kernel follows in one path (`MAXSYMLINKS`, `linux/namei.h`).
const MOST_LINKS: u32 = 40;
/// The inode number of a procfs's root directory (`PROC_ROOT_INO`, `linux/proc_ns.h`).
const ROOT_OF_PROCFS: u64 = 1;

/// A path as it was in a caller's memory, with the directories that the caller had then.
#[derive(Debug)]
pub struct Path {
    /// The thread whose `/proc/self` it is.
    pub(super) thread: u32,
    /// The directory out of which no `..` leads, and from which an absolute path begins.
    pub(super) root: Arc<OwnedFd>,
    /// Where a relative path begins.
    pub(super) base: Arc<OwnedFd>,
    /// Whether the root may lie below the base: then a `..` may stay where another one goes up.
    pub(super) base_is_above: bool,
    pub(super) bytes: Vec<u8>,
    /// Whether the call follows a symbolic link at its end.
    pub(super) follows: bool,
    /// What an `openat2(2)` asks for, without `RESOLVE_CACHED`.
    pub(super) resolve: ResolveFlags,
}

/// How far the kernel goes to resolve a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The kernel uses its caches only (`RESOLVE_CACHED`), and waits for no disk and no server.
    Cached,
    /// To its end.
    Full,
}

/// A file that a path leads to, opened with `O_PATH`.
#[derive(Debug)]
pub struct Found {
    /// The file.
    pub file: OwnedFd,
    /// Whether a link of `/proc` has led there: then it may have lost its name.
    pub by_link_of_proc: bool,
    /// The number that such a link at the path's end has for its name: it may be the caller's own descriptor.
    pub descriptor: Option<i32>,
}

impl From<OwnedFd> for Found {
    fn from(file: OwnedFd) -> Self {
        Self {
            file,
            by_link_of_proc: false,
            descriptor: None,
        }
    }
}

impl Path {
    /// Opens the file that it leads to now.
    ///
    /// # Errors
    /// What `openat2(2)` lists, as the call itself will meet it; `EPERM` where the broker cannot tell. Of a cached
    /// lookup `ENOENT` says that there is nothing at its end, and anything else that it takes a full one.
    pub fn resolve(&self, lookup: Lookup) -> Result<Found, Errno> {
        if lookup == Lookup::Cached {
            return match self.at_once(lookup) {
                Err(Errno::NOENT) if self.ends_with_nothing() => Err(Errno::NOENT),
                Err(_) => Err(Errno::AGAIN),
                Ok(found) => Ok(found),
            };
        }
        self.at_once(lookup).or_else(|_| Walk::new(self).go())
    }

    /// Lets the kernel resolve it in one call, which refuses links of `/proc` and leads nowhere out of its scope.
    fn at_once(&self, lookup: Lookup) -> Result<Found, Errno> {
        let is_scoped = self.resolve.contains(ResolveFlags::BENEATH);
        let (from, scope) = if self.is_absolute() && !is_scoped {
            (&self.root, ResolveFlags::IN_ROOT)
        } else if self.base_is_above {
            return Err(Errno::XDEV);
        } else {
            (&self.base, ResolveFlags::BENEATH)
        };
        let resolve = (self.resolve - ResolveFlags::IN_ROOT) | scope | cached(lookup);
        let file = open(from.as_fd(), &self.bytes, self.follows, resolve)?;
        // A file of `/proc/self` would be the broker's.
        if is_on_procfs(file.as_fd()) {
            return Err(Errno::XDEV);
        }
        Ok(file.into())
    }

    /// Whether its directory is there, and nothing of its last name, as far as the kernel's caches say.
    fn ends_with_nothing(&self) -> bool {
        let slash = self.bytes.iter().rposition(|&byte| byte == b'/');
        let (directory, name) = self.bytes.split_at(slash.map_or(0, |slash| slash + 1));
        if name.is_empty() || name == b"." || name == b".." {
            return false;
        }
        let parent = Self {
            root: Arc::clone(&self.root),
            base: Arc::clone(&self.base),
            bytes: if directory.is_empty() {
                b".".to_vec()
            } else {
                directory.to_vec()
            },
            follows: true,
            ..*self
        };
        let Ok(parent) = parent.at_once(Lookup::Cached) else {
            return false;
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::CACHED;
        open(parent.file.as_fd(), name, false, resolve).is_err_and(|errno| errno == Errno::NOENT)
    }

    fn is_absolute(&self) -> bool {
        self.bytes.starts_with(b"/")
    }
}

/// Resolves a path name by name.
struct Walk<'a> {
    path: &'a Path,
    /// The directory that has been reached.
    at: Step<'a>,
    /// What is left of the path, with that of the links on the way.
    rest: Vec<u8>,
    links: u32,
    by_link_of_proc: bool,
}

enum Step<'a> {
    Given(BorrowedFd<'a>),
    Opened(OwnedFd),
}

impl AsFd for Step<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Given(file) => *file,
            Self::Opened(file) => file.as_fd(),
        }
    }
}

impl<'a> Walk<'a> {
    fn new(path: &'a Path) -> Self {
        Self {
            path,
            at: Step::Given(path.base.as_fd()),
            rest: path.bytes.clone(),
            links: 0,
            by_link_of_proc: false,
        }
    }

    fn go(mut self) -> Result<Found, Errno> {
        self.begin()?;
        loop {
            let Some((name, after)) = split(&self.rest) else {
                // `/`, or one that ends with `..` or `.`: a directory.
                let here = openat(&self.at, c".", PLACE, Mode::empty())?;
                return Ok(self.found(here, None));
            };
            let is_last = after.iter().all(|&byte| byte == b'/');
            let must_be_directory = !after.is_empty();
            let (name, after) = (name.to_vec(), after.to_vec());
            if name == b"." || name == b".." {
                self.up(&name)?;
                self.rest = after;
                continue;
            }
            let next = openat(
                &self.at,
                OsStr::from_bytes(&name),
                PLACE | OFlags::NOFOLLOW,
                Mode::empty(),
            )?;
            let looked = look(next.as_fd())?;
            self.may_cross(&looked)?;
            if is_a(&looked, FileType::Symlink)
                && (!is_last || must_be_directory || self.path.follows)
            {
                if let Some(target) = self.follow(&name, next.as_fd(), &looked, &after)? {
                    let target = self.beyond(target)?;
                    let number = std::str::from_utf8(&name).ok();
                    let number = number.and_then(|number| number.parse().ok());
                    if is_last && !must_be_directory {
                        return Ok(self.found(target, number));
                    }
                    self.rest = after;
                    self.enter(target)?;
                }
                continue;
            }
            if is_last && !must_be_directory {
                return Ok(self.found(next, None));
            }
            self.rest = after;
            if looked.stx_attributes.contains(StatxAttributes::AUTOMOUNT) {
                // The kernel mounts what is due there for a name that goes on.
                let below = [&name, b"/.".as_slice()].concat();
                let mounted = openat(&self.at, OsStr::from_bytes(&below), PLACE, Mode::empty())?;
                self.may_cross(&look(mounted.as_fd())?)?;
                self.enter(mounted)?;
            } else {
                self.enter(next)?;
            }
        }
    }

    /// Goes to where the path begins, and on as far as there are plain names.
    fn begin(&mut self) -> Result<(), Errno> {
        if self.rest.starts_with(b"/") {
            if self.path.resolve.contains(ResolveFlags::BENEATH) {
                return Err(Errno::XDEV);
            }
            let root = look(self.path.root.as_fd())?;
            self.may_cross(&root)?;
            self.at = Step::Given(self.path.root.as_fd());
        }
        self.stride();
        Ok(())
    }

    /// Goes to the directory of the last name in one call, if there are but names of directories before it.
    fn stride(&mut self) {
        let rest = self.rest.as_slice();
        let Some(slash) = rest.iter().rposition(|&byte| byte == b'/') else {
            return;
        };
        let start = rest.iter().position(|&byte| byte != b'/').unwrap_or(slash);
        if start >= slash || rest.split(|&byte| byte == b'/').any(|name| name == b"..") {
            return;
        }
        let crossing = self.path.resolve & ResolveFlags::NO_XDEV;
        let plain = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | crossing;
        if let Ok(directory) = open(self.at.as_fd(), &rest[start..slash], true, plain)
            && look(directory.as_fd()).is_ok_and(|found| is_a(&found, FileType::Directory))
        {
            self.rest.drain(..=slash);
            self.at = Step::Opened(directory);
        }
    }

    fn enter(&mut self, directory: OwnedFd) -> Result<(), Errno> {
        if !is_a(&look(directory.as_fd())?, FileType::Directory) {
            return Err(Errno::NOTDIR);
        }
        self.at = Step::Opened(directory);
        Ok(())
    }

    /// Goes by `.` or `..`, which stays in the root directory.
    fn up(&mut self, name: &[u8]) -> Result<(), Errno> {
        if name == b"." {
            return Ok(());
        }
        let here = look(self.at.as_fd())?;
        let root = look(self.path.root.as_fd())?;
        if is_same(&here, &root)? {
            let is_scoped = self.path.resolve.contains(ResolveFlags::BENEATH);
            return if is_scoped { Err(Errno::XDEV) } else { Ok(()) };
        }
        let above = openat(&self.at, c"..", PLACE, Mode::empty())?;
        let above = self.beyond(above)?;
        self.at = Step::Opened(above);
        Ok(())
    }

    /// Follows a link. A link of `/proc` that jumps gives its target; the text of any other takes the place of its name.
    fn follow(
        &mut self,
        name: &[u8],
        link: BorrowedFd<'_>,
        looked: &Statx,
        after: &[u8],
    ) -> Result<Option<OwnedFd>, Errno> {
        if self.path.resolve.contains(ResolveFlags::NO_SYMLINKS) {
            return Err(Errno::LOOP);
        }
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(Errno::LOOP);
        }
        let text = if is_on_procfs(link) {
            match self.text_in_proc(name, link, looked)? {
                Some(text) => text,
                None if self.path.resolve.contains(ResolveFlags::NO_MAGICLINKS) => {
                    return Err(Errno::LOOP);
                }
                // RESOLVE_BENEATH and RESOLVE_IN_ROOT refuse it, too.
                None if self.path.resolve.intersects(SCOPES) => return Err(Errno::XDEV),
                None => {
                    self.by_link_of_proc = true;
                    return openat(&self.at, OsStr::from_bytes(name), PLACE, Mode::empty())
                        .map(Some);
                }
            }
        } else {
            readlinkat(link, c"", Vec::new())?.into_bytes()
        };
        if text.is_empty() {
            return Err(Errno::NOENT);
        }
        self.rest = [text.as_slice(), after].concat();
        self.begin()?;
        Ok(None)
    }

    /// The text of a link on a procfs; `None` where it has none and jumps.
    fn text_in_proc(
        &self,
        name: &[u8],
        link: BorrowedFd<'_>,
        looked: &Statx,
    ) -> Result<Option<Vec<u8>>, Errno> {
        let here = look(self.at.as_fd())?;
        if device(&here) != device(looked) {
            // Somebody has mounted a link of another procfs here.
            return Err(Errno::PERM);
        }
        let is_top = here.stx_ino == ROOT_OF_PROCFS;
        if is_top && (name == b"self" || name == b"thread-self") {
            let own = own_numbers(self.at.as_fd(), self.path.thread)?;
            let text = match name {
                b"self" => own.process.to_string(),
                _ => format!("{}/task/{}", own.process, own.thread),
            };
            return Ok(Some(text.into_bytes()));
        }
        let probe = ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
        if !is_top && open(self.at.as_fd(), name, true, probe).err() == Some(Errno::LOOP) {
            return Ok(None);
        }
        readlinkat(link, c"", Vec::new()).map(|text| Some(text.into_bytes()))
    }

    /// `place`, unless the path must not lead onto its mount.
    fn beyond(&self, place: OwnedFd) -> Result<OwnedFd, Errno> {
        self.may_cross(&look(place.as_fd())?)?;
        Ok(place)
    }

    fn may_cross(&self, next: &Statx) -> Result<(), Errno> {
        if self.path.resolve.contains(ResolveFlags::NO_XDEV)
            && mount(&look(self.at.as_fd())?)? != mount(next)?
        {
            return Err(Errno::XDEV);
        }
        Ok(())
    }

    fn found(&self, file: OwnedFd, descriptor: Option<i32>) -> Found {
        Found {
            file,
            by_link_of_proc: self.by_link_of_proc,
            descriptor,
        }
    }
}

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
/// Both have the beginning of a path for its root.
pub(super) const SCOPES: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::IN_ROOT);

fn cached(lookup: Lookup) -> ResolveFlags {
    match lookup {
        Lookup::Cached => ResolveFlags::CACHED,
        Lookup::Full => ResolveFlags::empty(),
    }
}

fn open(
    from: BorrowedFd<'_>,
    path: &[u8],
    follows: bool,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    /// Somebody renames something all the time.
    const TRIES: u32 = 16;
    let flags = if follows {
        PLACE
    } else {
        PLACE | OFlags::NOFOLLOW
    };
    let path = OsStr::from_bytes(path);
    let mut opened = openat2(from, path, flags, Mode::empty(), resolve);
    for _ in 1..TRIES {
        // A concurrent rename made the kernel's check of `..` uncertain.
        if resolve.contains(ResolveFlags::CACHED)
            || !matches!(opened, Err(Errno::AGAIN | Errno::INTR))
        {
            break;
        }
        opened = openat2(from, path, flags, Mode::empty(), resolve);
    }
    opened
}

/// The first name of a path, and what comes after it, with its slashes.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = path.iter().position(|&byte| byte != b'/')?;
    let path = &path[start..];
    let end = path.iter().position(|&byte| byte == b'/');
    Some(path.split_at(end.unwrap_or(path.len())))
}

fn is_on_procfs(file: BorrowedFd<'_>) -> bool {
    // A file of a filesystem that cannot be asked is none of `/proc`.
    FilesystemKind::of(file) == Ok(FilesystemKind::Proc)
}

fn look(file: BorrowedFd<'_>) -> Result<Statx, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
    statx(file, c"", flags, wanted)
}

fn is_a(found: &Statx, kind: FileType) -> bool {
    FileType::from_raw_mode(found.stx_mode.into()) == kind
}

fn device(found: &Statx) -> u64 {
    rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor)
}

/// The mount that a file was found on, which kernels before Linux 5.8 do not say.
fn mount(found: &Statx) -> Result<u64, Errno> {
    let told = StatxFlags::from_bits_retain(found.stx_mask);
    if told.contains(StatxFlags::MNT_ID) {
        Ok(found.stx_mnt_id)
    } else {
        Err(Errno::PERM)
    }
}

fn is_same(one: &Statx, other: &Statx) -> Result<bool, Errno> {
    Ok(
        mount(one)? == mount(other)?
            && (device(one), one.stx_ino) == (device(other), other.stx_ino),
    )
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_name_ends_at_a_slash() {
        for (path, expected) in [
            (&b"a/b"[..], Some((&b"a"[..], &b"/b"[..]))),
            (b"//a//", Some((b"a", b"//"))),
            (b"a", Some((b"a", b""))),
            (b"///", None),
            (b"", None),
        ] {
            assert_eq!(split(path), expected);
        }
    }
}
