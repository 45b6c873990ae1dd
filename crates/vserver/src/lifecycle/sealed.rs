//! Runs this program so that nobody can write to it, wherever it becomes a process of a guest.
//!
//! A guest can name the program that entered it (`/proc/PID/exe`, or a script whose interpreter is
//! `/proc/self/exe`) and, as root, open it for writing. If that were the file on the host, the next start of
//! `vserver` would run what the guest wrote. So the program runs from a read-only mount that is in no mount
//! namespace ([`read_only`]), which costs nothing. A kernel that cannot make one runs a sealed copy in memory,
//! which takes milliseconds.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use vhashify_sys::procfs::descriptor_path;
use vhashify_sys::read_only;

/// This program, as the kernel names it.
const PROGRAM: &str = "/proc/self/exe";
/// How long the kernel may hold pages of a copy that is being sealed.
const SEAL_TIMEOUT: Duration = Duration::from_secs(5);

/// This program, sealed. Drop it once the program is started: until then its mount can be reached through this
/// process's descriptor.
#[derive(Debug)]
pub struct Sealed(OwnedFd);

impl Sealed {
    /// Seals this program.
    ///
    /// # Errors
    /// `/proc` is not mounted, or memory is short.
    pub fn new() -> io::Result<Self> {
        match read_only::show(Path::new(PROGRAM)) {
            Ok(shown) => Ok(Self(shown)),
            Err(error) => {
                tracing::debug!(%error, "no mount of this program; it is copied");
                Self::copy()
            }
        }
    }

    fn copy() -> io::Result<Self> {
        let mut program = File::open(PROGRAM)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut copy = File::from(memfd_create("vserver", flags)?);
        io::copy(&mut program, &mut copy)?;
        seal(&copy)?;
        Ok(Self(copy.into()))
    }

    /// A command that runs it with an empty environment.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(descriptor_path(&self.0));
        command.arg0("vserver").env_clear();
        command
    }
}

/// Seals a copy for good: even root cannot unseal it.
///
/// The kernel refuses with `EBUSY` while anything but the page cache holds one of its pages
/// (`memfd_wait_for_pins`, mm/memfd.c). The kernel itself may hold one for a moment, to migrate it for example.
fn seal(copy: &File) -> io::Result<()> {
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    let begun = Instant::now();
    loop {
        match fcntl_add_seals(copy, seals) {
            Err(Errno::BUSY) if begun.elapsed() < SEAL_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            sealed => return Ok(sealed?),
        }
    }
}

/// The path of this program on the disk.
#[must_use]
pub fn program_on_disk() -> PathBuf {
    std::fs::read_link(PROGRAM).unwrap_or_else(|_| Path::new(PROGRAM).to_path_buf())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::time::Duration;

    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::pipe::{SpliceFlags, splice};

    use super::seal;

    #[test]
    fn a_copy_whose_pages_are_held_for_a_moment_is_sealed_all_the_same() {
        let mut copy = File::from(memfd_create("copy", MemfdFlags::ALLOW_SEALING).unwrap());
        copy.write_all(&[7; 4096]).unwrap();
        let (held, holds) = rustix::pipe::pipe().unwrap();
        // A page that waits in a pipe is held.
        let from = &mut 0;
        let count = splice(&copy, Some(from), &holds, None, 4096, SpliceFlags::empty()).unwrap();
        assert_eq!(count, 4096);
        let holder = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(400));
            drop((held, holds));
        });
        seal(&copy).unwrap();
        holder.join().unwrap();
        copy.write_all(b"x").unwrap_err();
    }
}
