//! Walks a guest's directories from each to those in it, in steps whose number grows with the directories alone.
//!
//! ```text
//! vdir ─ a ─ b ─ … ─ y ─ z          open: the last 64, and no path is resolved from the top
//!  │     └ names of directories that are still to be entered
//! ```
//!
//! A directory is opened by its name in the open directory above, and left by `..` where the one above was closed
//! meanwhile. The guest may have moved it: then `..` is another inode, and the directory above is opened by its path.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir, openat};
use rustix::io::Errno;
use vhashify_sys::resolve;

use crate::guest::Guest;

/// Directories on the way that are open at once.
const MOST_OPEN: usize = 64;
/// Directories that are opened by their paths, in one walk, because the guest moves them.
const MOST_MOVED: u32 = 64;
/// Bytes asked of `getdents64(2)` at once.
const BUFFER: usize = 32 << 10;

/// A directory that the walk is in.
#[derive(Debug)]
pub struct Place<'a> {
    path: &'a [u8],
    frames: &'a [Frame],
}

impl<'a> Place<'a> {
    /// Its path below the vdir, which is the empty one.
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        self.path
    }

    /// The directories from this one up to the vdir: the number of each in this walk, and its name.
    pub fn upwards(&self) -> impl Iterator<Item = (u32, &'a [u8])> {
        let path = self.path;
        self.frames.iter().rev().map(move |frame| {
            let name = path.get(frame.name..frame.end).unwrap_or_default();
            (frame.number, name)
        })
    }
}

#[derive(Debug)]
struct Frame {
    /// `None` while it lies far above.
    directory: Option<OwnedFd>,
    /// Device and inode, once it was closed.
    identity: (u64, u64),
    number: u32,
    /// Where its name begins in the path, and where the path ends.
    name: usize,
    end: usize,
    /// The names of directories in it that are still to be entered, each with a NUL after it.
    rest: Vec<u8>,
}

struct Descent<'a> {
    guest: &'a Guest,
    frames: Vec<Frame>,
    path: Vec<u8>,
    count: u32,
    moved: u32,
}

/// Calls `visit` with each name of the guest, its directory and its inode number, all names of a directory in
/// succession. It enters no mount.
///
/// # Errors
/// The first error of a directory; `EBUSY` where the guest moves directories on and on.
pub fn each_placed_name(
    guest: &Guest,
    mut visit: impl FnMut(&Place<'_>, &[u8], u64),
) -> Result<(), Errno> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut descent = Descent {
        guest,
        frames: Vec::new(),
        path: Vec::new(),
        count: 0,
        moved: 0,
    };
    let top = resolve::open_directory(guest.root.as_fd(), b"")?;
    descent.enter(top, 0);
    loop {
        descent.read(&mut buffer, &mut visit)?;
        if !descent.go_on()? {
            return Ok(());
        }
    }
}

impl Descent<'_> {
    /// Reads the names of the deepest directory.
    fn read(
        &mut self,
        buffer: &mut [MaybeUninit<u8>],
        visit: &mut impl FnMut(&Place<'_>, &[u8], u64),
    ) -> Result<(), Errno> {
        let Some(Frame {
            directory: Some(directory),
            ..
        }) = self.frames.last()
        else {
            return Ok(());
        };
        let place = Place {
            path: &self.path,
            frames: &self.frames,
        };
        let mut below = Vec::new();
        let mut entries = RawDir::new(directory, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            visit(&place, name, entry.ino());
            if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                below.extend_from_slice(name);
                below.push(0);
            }
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.rest = below;
        }
        Ok(())
    }

    /// Enters the next directory; false where there is none.
    fn go_on(&mut self) -> Result<bool, Errno> {
        while let Some(frame) = self.frames.last_mut() {
            let Some(name) = take_last(&mut frame.rest) else {
                self.leave()?;
                continue;
            };
            let Some(directory) = &frame.directory else {
                // It has moved away with all that is in it.
                frame.rest.clear();
                continue;
            };
            match resolve::open_directory(directory.as_fd(), &name) {
                Ok(opened) => {
                    let begin = self.path.len() + usize::from(!self.path.is_empty());
                    if begin > 0 {
                        self.path.push(b'/');
                    }
                    self.path.extend_from_slice(&name);
                    self.enter(opened, begin);
                    return Ok(true);
                }
                // The guest has removed it meanwhile, or it is a mount point: names below it are on another mount.
                Err(Errno::NOENT | Errno::XDEV | Errno::LOOP | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(false)
    }

    fn enter(&mut self, directory: OwnedFd, name: usize) {
        self.frames.push(Frame {
            directory: Some(directory),
            identity: (0, 0),
            number: self.count,
            name,
            end: self.path.len(),
            rest: Vec::new(),
        });
        self.count = self.count.saturating_add(1);
        let far = self.frames.len().checked_sub(1 + MOST_OPEN);
        if let Some(far) = far.and_then(|far| self.frames.get_mut(far))
            && let Some(directory) = far.directory.take_if(|_| far.number > 0)
        {
            // Of one that cannot be looked at, `..` is another inode, and its path is used.
            far.identity = identity(&directory).unwrap_or_default();
        }
    }

    /// Leaves the deepest directory, and sees to it that the one above is open.
    fn leave(&mut self) -> Result<(), Errno> {
        let Some(left) = self.frames.pop() else {
            return Ok(());
        };
        let Some(above) = self.frames.last_mut() else {
            return Ok(());
        };
        self.path.truncate(above.end);
        if above.directory.is_some() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = left
            .directory
            .and_then(|left| openat(left, c"..", flags, Mode::empty()).ok())
            .filter(|opened| identity(opened) == Some(above.identity));
        if opened.is_some() {
            above.directory = opened;
            return Ok(());
        }
        self.moved += 1;
        if self.moved > MOST_MOVED {
            return Err(Errno::BUSY);
        }
        above.directory = match resolve::open_directory(self.guest.root.as_fd(), &self.path) {
            Ok(opened) => Some(opened),
            Err(Errno::NOENT | Errno::XDEV | Errno::LOOP | Errno::NOTDIR) => None,
            Err(errno) => return Err(errno),
        };
        Ok(())
    }
}

/// Takes the last name off a list.
fn take_last(names: &mut Vec<u8>) -> Option<Vec<u8>> {
    names.pop()?;
    let start = names.iter().rposition(|&byte| byte == 0);
    Some(names.split_off(start.map_or(0, |nul| nul + 1)))
}

fn identity(directory: &OwnedFd) -> Option<(u64, u64)> {
    let found = rustix::fs::fstat(directory).ok()?;
    Some((found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use super::take_last;

    #[test]
    fn names_come_off_one_by_one() {
        let mut names = b"a\0bc\0d\0".to_vec();
        for expected in [&b"d"[..], b"bc", b"a"] {
            assert_eq!(take_last(&mut names).as_deref(), Some(expected));
        }
        assert_eq!(take_last(&mut names), None);
    }
}
