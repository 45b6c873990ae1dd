//! Makes the socket that runtimes connect to.
//!
//! The socket gets its name atomically, when it listens already and only root can connect. It replaces a name that a
//! killed process left, but never one on which another process listens. Dropping the value removes the name, if that
//! still leads to this socket.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, renameat_with, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use thiserror::Error;
use vhashify_sys::call_error::CallError;
use vhashify_sys::procfs::descriptor_path;
use vhashify_sys::shown::Shown;

/// How many connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 128;

/// A socket that listens.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    directory: OwnedFd,
    name: OsString,
    /// Device and inode number of the name.
    inode: (u64, u64),
    listening: OwnedFd,
}

/// Why a socket cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Another process listens there.
    #[error(
        "somebody listens on {} already; stop that, or choose another path",
        Shown::path(path)
    )]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Another file is there.
    #[error(
        "{} is there already and is no socket; remove it, or choose another path",
        Shown::path(path)
    )]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The path has no name at its end.
    #[error(
        "{} cannot be the path of a socket; name a file in a directory that exists",
        Shown::path(path)
    )]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// A call failed.
    #[error(transparent)]
    System(#[from] CallError),
}

impl Socket {
    /// Makes a socket of this `kind` that listens at `path`.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn listen(path: &Path, kind: SocketType) -> Result<Self, SocketError> {
        let failed = |call: &'static str| {
            move |errno: Errno| CallError::new(call, path, std::io::Error::from(errno))
        };
        // Checks the length: a client needs the whole path as its address.
        SocketAddrUnix::new(path).map_err(failed("bind"))?;
        let Some(name) = path.file_name() else {
            let path = path.to_path_buf();
            return Err(SocketError::NoName { path });
        };
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let directory = open_place(parent)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            socket_with(AddressFamily::UNIX, kind, flags, None).map_err(failed("socket"))?;
        // bind(2) gives the name the socket's mode, so that it never has another one.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed("chmod"))?;
        let temporary = Temporary {
            directory: directory.as_fd(),
            name: format!(".vhashify-{}", std::process::id()).into(),
        };
        // A killed process with the same number may have left it.
        let _ = temporary.remove();
        let address = temporary.address().map_err(failed("bind"))?;
        bind(&socket, &address).map_err(failed("bind"))?;
        listen(&socket, BACKLOG).map_err(failed("listen"))?;
        let found = temporary.look().map_err(failed("stat"))?;
        place(&temporary, name, path)?;
        drop(temporary);
        Ok(Self {
            path: path.to_path_buf(),
            name: name.to_os_string(),
            inode: (found.st_dev, found.st_ino),
            listening: socket,
            directory,
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection, if there is one.
    ///
    /// # Errors
    /// What `accept(2)` lists.
    pub fn accept(&self) -> Result<OwnedFd, Errno> {
        accept_with(&self.listening, SocketFlags::CLOEXEC)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listening.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let found = statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == self.inode) {
            // Another process may have removed it in this instant.
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// The name of a socket until it gets its final one. Dropping this removes the name.
struct Temporary<'a> {
    directory: BorrowedFd<'a>,
    name: OsString,
}

impl Temporary<'_> {
    fn address(&self) -> Result<SocketAddrUnix, Errno> {
        address(self.directory, &self.name)
    }

    fn look(&self) -> Result<rustix::fs::Stat, Errno> {
        statat(self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn remove(&self) -> Result<(), Errno> {
        unlinkat(self.directory, &self.name, AtFlags::empty())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // After a rename it is gone already.
        let _ = self.remove();
    }
}

fn open_place(directory: &Path) -> Result<OwnedFd, CallError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|errno| CallError::new("open", directory, std::io::Error::from(errno)))
}

/// Gives the socket its name.
fn place(temporary: &Temporary<'_>, name: &OsStr, path: &Path) -> Result<(), SocketError> {
    let directory = temporary.directory;
    let rename = |flags| renameat_with(directory, &temporary.name, directory, name, flags);
    let failed = |errno: Errno| CallError::new("rename", path, std::io::Error::from(errno));
    let in_use = || {
        let path = path.to_path_buf();
        SocketError::InUse { path }
    };
    match rename(RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(()),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno).into()),
    }
    let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        let path = path.to_path_buf();
        return Err(SocketError::NoSocket { path });
    }
    if is_alive(directory, name) {
        return Err(in_use());
    }
    rename(RenameFlags::EXCHANGE).map_err(failed)?;
    // Another process may listen there since the first check.
    if is_alive(directory, &temporary.name) {
        rename(RenameFlags::EXCHANGE).map_err(failed)?;
        return Err(in_use());
    }
    Ok(())
}

/// Whether a process listens on a socket of any kind.
fn is_alive(directory: BorrowedFd<'_>, name: &OsStr) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let tried = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| connect(&socket, &address(directory, name)?));
    tried != Err(Errno::CONNREFUSED)
}

/// The address of a name in a directory, whose own path may be too long for an address.
fn address(directory: BorrowedFd<'_>, name: &OsStr) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(descriptor_path(&directory).join(name))
}
