//! Extended attributes of any size (`xattr(7)`), of an open file or of a name that is not followed.
//!
//! To set and to remove one, `rustix` has all that is needed.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::{Errno, Result};

/// Where the attributes are.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    /// An open file.
    File(BorrowedFd<'a>),
    /// What has this path: a symbolic link itself.
    Path(&'a Path),
}

impl<'a, F: AsFd> From<&'a F> for Of<'a> {
    fn from(file: &'a F) -> Self {
        Self::File(file.as_fd())
    }
}

/// The names, in the filesystem's order.
///
/// # Errors
/// What `flistxattr(2)` lists; `EOPNOTSUPP` where the filesystem has no extended attributes.
pub fn list<'a>(of: impl Into<Of<'a>>) -> Result<Vec<OsString>> {
    let of = of.into();
    let names = read(|buffer: &mut [u8]| match of {
        Of::File(file) => flistxattr(file, buffer),
        Of::Path(path) => llistxattr(path, buffer),
    })?;
    // Each ends with a NUL.
    let names = names.split(|&byte| byte == 0);
    Ok(names
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect())
}

/// The value of `name`; `None` where there is no such attribute.
///
/// # Errors
/// What `fgetxattr(2)` lists, but for `ENODATA`.
pub fn get<'a>(of: impl Into<Of<'a>>, name: &OsStr) -> Result<Option<Vec<u8>>> {
    let (of, name) = (of.into(), name.as_bytes());
    let value = read(|buffer: &mut [u8]| match of {
        Of::File(file) => fgetxattr(file, name, buffer),
        Of::Path(path) => lgetxattr(path, name, buffer),
    });
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Reads into a buffer that grows until the value fits (`ERANGE`).
///
/// It never asks for the size with an empty buffer: `rustix` answers 0 then, whatever the kernel said.
fn read(mut call: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    /// Most lists and values are shorter.
    const USUAL: usize = 256;
    /// No list and no value is longer (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
    const LONGEST: usize = 64 << 10;
    let mut bytes = vec![0; USUAL];
    loop {
        match call(&mut bytes) {
            Ok(size) => {
                bytes.truncate(size);
                return Ok(bytes);
            }
            Err(Errno::RANGE) if bytes.len() < LONGEST => bytes.resize(bytes.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, read};

    /// As `rustix` reads an attribute of this size.
    fn answer(size: usize) -> impl FnMut(&mut [u8]) -> Result<usize, Errno> {
        move |buffer| {
            if buffer.is_empty() {
                return Ok(0);
            }
            let part = buffer.get_mut(..size).ok_or(Errno::RANGE)?;
            part.fill(7);
            Ok(size)
        }
    }

    #[test]
    fn an_attribute_of_any_size_is_read_whole() {
        for size in [0, 1, 255, 256, 257, 5000, 64 << 10] {
            assert_eq!(read(answer(size)), Ok(vec![7; size]));
        }
        assert_eq!(read(answer((64 << 10) + 1)), Err(Errno::RANGE));
        assert_eq!(read(|_| Err(Errno::NODATA)), Err(Errno::NODATA));
    }
}
