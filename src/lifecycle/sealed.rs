//! A sealed copy of this program in memory, for whatever becomes a process of a guest.
//!
//! A guest can name the program that entered it (`/proc/PID/exe`, or a script whose interpreter is
//! `/proc/self/exe`) and, being root, open it for writing. If that were the file on the host, the next
//! start of `vserver` would run what the guest wrote. The copy can be written by nobody.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// This program, as the kernel names it.
const PROGRAM: &str = "/proc/self/exe";
/// Where a copy finds the program that it was copied from.
const ORIGIN: &str = "VSERVER_ORIGIN";

/// A copy that can be run as long as this value lives.
#[derive(Debug)]
pub struct Sealed(File);

impl Sealed {
    /// Copies this program.
    ///
    /// # Errors
    /// `/proc` is not mounted, or there is no memory.
    pub fn copy() -> io::Result<Self> {
        let mut program = File::open(PROGRAM)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut copy = File::from(memfd_create("vserver", flags)?);
        io::copy(&mut program, &mut copy)?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&copy, seals)?;
        Ok(Self(copy))
    }

    /// A command that runs it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command.arg0("vserver").env(ORIGIN, origin());
        command
    }
}

/// Whether this process runs a sealed copy.
#[must_use]
pub fn is_sealed() -> bool {
    let seals = File::open(PROGRAM).and_then(|program| Ok(fcntl_get_seals(&program)?));
    seals.is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

/// Goes on in a sealed copy, with the same arguments. Returns only in that copy.
///
/// # Errors
/// As [`Sealed::copy`], or the copy cannot be run.
pub fn ensure() -> io::Result<()> {
    if is_sealed() {
        return Ok(());
    }
    let copy = Sealed::copy()?;
    Err(copy.command().args(std::env::args_os().skip(1)).exec())
}

/// The program on the disk that this one was copied from, or is.
#[must_use]
pub fn origin() -> PathBuf {
    let of_copy = std::env::var_os(ORIGIN).map(PathBuf::from);
    if let (true, Some(origin)) = (is_sealed(), of_copy) {
        return origin;
    }
    std::fs::read_link(PROGRAM).unwrap_or_else(|_| Path::new(PROGRAM).to_path_buf())
}
