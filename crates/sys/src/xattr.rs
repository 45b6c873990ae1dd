//! Extended attributes of any size (`xattr(7)`), of an open file or of a name that is not followed.
//!
//! Reading takes two calls, and another process may change what is read between them: then both are made again. To
//! set and to remove one, `rustix` has all that is needed.

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

/// Asks for the size first; `ERANGE` says that it has grown since.
fn read(mut call: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    loop {
        let size = call(&mut [])?;
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; size];
        match call(&mut bytes) {
            Ok(size) => {
                bytes.truncate(size);
                return Ok(bytes);
            }
            Err(Errno::RANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, read};

    #[test]
    fn what_grows_or_shrinks_meanwhile_is_read_whole() {
        let answers = |answers: &[Result<usize, Errno>]| {
            let mut answers = answers.iter();
            read(|buffer| {
                buffer.fill(7);
                *answers.next().unwrap()
            })
        };
        assert_eq!(answers(&[Ok(0)]), Ok(vec![]));
        assert_eq!(answers(&[Ok(3), Ok(2)]), Ok(vec![7; 2]));
        assert_eq!(
            answers(&[Ok(3), Err(Errno::RANGE), Ok(5), Ok(5)]),
            Ok(vec![7; 5])
        );
        assert_eq!(answers(&[Ok(3), Err(Errno::NODATA)]), Err(Errno::NODATA));
    }
}
