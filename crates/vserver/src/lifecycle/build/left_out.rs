//! Keeps out of a new guest what must not come with its files: device nodes, and what is `vhashify`'s own.
//!
//! A device node of a guest would work on the host, for every user to whom the way to it is open. So a build gives up
//! the capability to make one before it runs anything ([`make_no_device_nodes`]), and each method is told to leave them
//! out. `debootstrap` does not work without the capability: it keeps it, and its nodes are removed.
//!
//! `trusted.vhashify.*` and names that begin with `.vhashify-` say what state a file is in while it is unified. Those of
//! an archive would be lies.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, fremovexattr, futimens,
    lremovexattr, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities,
};
use vhashify_sys::procfs::descriptor_path;
use vhashify_sys::resolve;
use vhashify_sys::xattr::{self, Of};

use super::super::LifecycleError;
use super::super::error::Doing;

/// What the names of attributes begin with that `vhashify` gives to files.
const ATTRIBUTES: &[u8] = b"trusted.vhashify.";
/// What the names begin with that `vhashify` gives to files of its own.
const NAMES: &[u8] = b".vhashify-";

/// How much of the source is not in the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Device nodes.
    pub devices: usize,
    /// Attributes of `vhashify`'s.
    pub attributes: usize,
    /// Names of `vhashify`'s, with all below them.
    pub names: usize,
}

impl LeftOut {
    /// Only so many device nodes.
    pub fn devices(devices: usize) -> Self {
        Self {
            devices,
            ..Self::default()
        }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            devices: self.devices + other.devices,
            attributes: self.attributes + other.attributes,
            names: self.names + other.names,
        }
    }

    /// Tells the user, if there is something to tell.
    pub fn warn(self, guest: &str) {
        let mut text = String::new();
        for (count, one, many) in [
            (self.devices, "device node", "device nodes"),
            (
                self.attributes,
                "attribute trusted.vhashify.*",
                "attributes trusted.vhashify.*",
            ),
            (self.names, "name .vhashify-*", "names .vhashify-*"),
        ] {
            if count > 0 {
                let comma = if text.is_empty() { "" } else { ", " };
                let what = if count == 1 { one } else { many };
                let _ = write!(text, "{comma}{count} {what}");
            }
        }
        if !text.is_empty() {
            tracing::warn!("{guest}: left out: {text}");
        }
    }
}

/// Whether it is an attribute of `vhashify`'s.
pub fn is_own_attribute(name: &OsStr) -> bool {
    name.as_bytes().starts_with(ATTRIBUTES)
}

/// Whether it is a name of `vhashify`'s.
pub fn is_own_name(name: &[u8]) -> bool {
    name.starts_with(NAMES)
}

/// Gives up the capability to make device nodes, for this thread and all that it starts.
///
/// # Errors
/// The call's.
pub fn make_no_device_nodes() -> io::Result<()> {
    let without = |set: CapabilitySet| set.difference(CapabilitySet::MKNOD);
    remove_capability_from_bounding_set(CapabilitySet::MKNOD)?;
    let own = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: without(own.effective),
            permitted: without(own.permitted),
            inheritable: without(own.inheritable),
        },
    )?;
    Ok(())
}

/// A directory on the way to the one that is being looked through.
struct Directory {
    /// Its name in the one above.
    name: Vec<u8>,
    /// The names in it that are still to be looked at.
    names: Vec<Vec<u8>>,
    /// Whether it goes with all that is in it.
    goes: bool,
    /// Its times, which are put back where a name was removed from it.
    times: Timestamps,
    is_changed: bool,
}

impl Directory {
    fn read(directory: &OwnedFd, name: Vec<u8>, goes: bool) -> io::Result<Self> {
        let found = rustix::fs::fstat(directory)?;
        Ok(Self {
            name,
            names: resolve::names(directory.as_fd())?,
            goes,
            times: times(&found),
            is_changed: false,
        })
    }
}

/// Removes everything of the kind from `vdir`, to which nobody else writes, and says how much it was.
///
/// It holds one directory open at a time, however deep they are.
pub fn remove(vdir: &Path) -> Result<LeftOut, LifecycleError> {
    let top = resolve::open_host_directory(vdir).doing("open", vdir)?;
    remove_below(top).doing("look through", vdir)
}

fn remove_below(top: OwnedFd) -> io::Result<LeftOut> {
    let mut removed = LeftOut::default();
    removed.attributes += clear_attributes(&top)?;
    let mut open = vec![Directory::read(&top, Vec::new(), false)?];
    let mut here = top;
    while let Some(directory) = open.last_mut() {
        if let Some(name) = directory.names.pop() {
            if let Some((inner, goes)) = entry(here.as_fd(), &name, directory, &mut removed)? {
                open.push(Directory::read(&inner, name, goes)?);
                here = inner;
            }
            continue;
        }
        if directory.is_changed && !directory.goes {
            futimens(&here, &directory.times)?;
        }
        let (done, above) = (open.pop(), open.last_mut());
        let (Some(done), Some(above)) = (done, above) else {
            break;
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        here = openat(&here, "..", flags, Mode::empty())?;
        if done.goes {
            unlinkat(&here, &done.name, AtFlags::REMOVEDIR)?;
            above.is_changed = true;
        }
    }
    Ok(removed)
}

/// Looks at one name. Returns a directory to descend into, and whether it goes.
fn entry(
    here: BorrowedFd<'_>,
    name: &[u8],
    directory: &mut Directory,
    removed: &mut LeftOut,
) -> io::Result<Option<(OwnedFd, bool)>> {
    let found = statat(here, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let is_own = is_own_name(name);
    let goes = directory.goes || is_own;
    if !directory.goes {
        removed.names += usize::from(is_own);
        removed.devices += usize::from(is_device && !is_own);
    }
    if kind == FileType::Directory {
        let inner = match resolve::open_directory(here, name) {
            // A filesystem that is mounted there is not part of the guest.
            Err(Errno::XDEV) => return Ok(None),
            inner => inner?,
        };
        if !goes {
            removed.attributes += clear_attributes(&inner)?;
        }
        return Ok(Some((inner, goes)));
    }
    if goes || is_device {
        unlinkat(here, name, AtFlags::empty())?;
        directory.is_changed = true;
        return Ok(None);
    }
    let path = descriptor_path(&here).join(OsStr::from_bytes(name));
    removed.attributes += clear_attributes(Of::Path(&path))?;
    Ok(None)
}

/// Removes the attributes that are `vhashify`'s own, and says how many there were.
pub fn clear_attributes<'a>(of: impl Into<Of<'a>>) -> io::Result<usize> {
    let of = of.into();
    let listed = match xattr::list(of) {
        Err(Errno::OPNOTSUPP) => return Ok(0),
        listed => listed?,
    };
    let mut count = 0;
    for name in listed.iter().filter(|name| is_own_attribute(name)) {
        match of {
            Of::File(file) => fremovexattr(file, name.as_os_str())?,
            Of::Path(path) => lremovexattr(path, name.as_os_str())?,
        }
        count += 1;
    }
    Ok(count)
}

fn times(of: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or(0),
    };
    Timestamps {
        last_access: time(of.st_atime, of.st_atime_nsec),
        last_modification: time(of.st_mtime, of.st_mtime_nsec),
    }
}
