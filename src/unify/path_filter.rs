//! The part of a guest to which a command is confined by paths on the command line.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};
use vhashify_sys::resolve;

use crate::error::Error;
use crate::guest::Guest;
use crate::relink::temporary;

/// Paths that were named, with all that lies below them; everything, where none was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathFilter(Vec<Vec<u8>>);

impl PathFilter {
    /// `paths` as the guest sees them.
    ///
    /// # Errors
    /// [`Error::Argument`] for a path that is not in the guest, or leads out of it.
    pub fn new(guest: &Guest, paths: &[PathBuf]) -> Result<Self, Error> {
        let paths = paths.iter().map(|path| below(guest, path));
        Ok(Self(paths.collect::<Result<_, _>>()?))
    }

    /// Whether a path below the vdir, without a leading slash, is one of them or lies below one.
    #[must_use]
    pub fn holds(&self, path: &[u8]) -> bool {
        let is_at_or_below = |top: &Vec<u8>| {
            path.strip_prefix(top.as_slice())
                .is_some_and(|rest| top.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
        };
        self.0.is_empty() || self.0.iter().any(is_at_or_below)
    }
}

/// A path of the guest as bytes below the vdir, after making sure that it is there.
fn below(guest: &Guest, path: &Path) -> Result<Vec<u8>, Error> {
    let refused = |reason| Error::Argument {
        path: path.to_path_buf(),
        reason,
    };
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.as_os_str().as_bytes().split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(refused("leads upwards; name a path below the guest's root")),
            name => components.push(name),
        }
    }
    let Some((name, parents)) = components.split_last() else {
        return Ok(Vec::new());
    };
    if temporary::is_one(name) {
        return Err(refused("is a name that is reserved for runs"));
    }
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    resolve::open_directory(guest.root.as_fd(), &parents.join(b"/".as_slice()))
        .and_then(|parent| rustix::fs::statx(parent, *name, flags, StatxFlags::TYPE))
        .map_err(|_| refused("is not in the guest; name a path as the guest sees it"))?;
    Ok(components.join(b"/".as_slice()))
}

#[cfg(test)]
mod tests {
    use super::PathFilter;

    #[test]
    fn a_path_holds_itself_and_what_lies_below_it() {
        let of = |paths: &[&[u8]]| PathFilter(paths.iter().map(|path| path.to_vec()).collect());
        for (paths, path, holds) in [
            (&[][..], &b"usr/bin/x"[..], true),
            (&[&b""[..]], b"usr/bin/x", true),
            (&[b"usr"], b"usr/bin/x", true),
            (&[b"usr/bin/x"], b"usr/bin/x", true),
            (&[b"usr/bin/x"], b"usr/bin/xy", false),
            (&[b"usr/bin/xy"], b"usr/bin/x", false),
            (&[b"us"], b"usr/bin/x", false),
            (&[b"bin"], b"usr/bin/x", false),
            (&[b"etc", b"usr/bin"], b"usr/bin/x", true),
        ] {
            assert_eq!(of(paths).holds(path), holds, "{paths:?} {path:?}");
        }
    }
}
