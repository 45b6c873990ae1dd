//! The reaper, a program that is process 1 of a guest: `memfd_create(2)`, `execveat(2)`.

use std::ffi::{CStr, CString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::ptr::null;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use crate::last_error;
use crate::procfs::descriptor_path;

/// A static program without a library; `crates/sys/reaper/main.rs` is its source.
static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/reaper"));

/// Whoever reads it learns nothing, and its users of the guest may be those who execute it.
const MODE: u32 = 0o555;

/// The name of a `memfd`, which `ps` shows.
const NAME: &CStr = c"reaper";

/// Makes a file of the reaper that nobody can write to: in memory, sealed; where the host lets nobody execute that
/// (`vm.memfd_noexec`), one without a name in `directory`.
///
/// # Errors
/// Neither can be made.
pub fn make_reaper(directory: &Path) -> io::Result<OwnedFd> {
    in_memory().or_else(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => on_disk(directory),
        _ => Err(error),
    })
}

fn in_memory() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create(NAME, flags | MemfdFlags::EXEC) {
        // A kernel before 6.3, where every one can be executed.
        Err(Errno::INVAL) => memfd_create(NAME, flags),
        made => made,
    };
    let mut file = File::from(file?);
    file.write_all(PROGRAM)?;
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    // It is written anew for each guest, so that a page which the kernel holds right now does no harm.
    let _ = fcntl_add_seals(&file, seals);
    Ok(file.into())
}

/// The kernel executes no file that somebody has open for writing, so it is opened a second time.
fn on_disk(directory: &Path) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options.custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC);
    let mut file = options.open(directory)?;
    file.write_all(PROGRAM)?;
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    Ok(File::open(descriptor_path(&file))?.into())
}

/// Becomes the program of an open file: `arguments` with its name, and `variables`. Returns only if that fails.
#[must_use]
pub fn execute(program: impl AsFd, arguments: &[CString], variables: &[CString]) -> io::Error {
    let list = |strings: &[CString]| -> Vec<*const libc::c_char> {
        let pointers = strings.iter().map(|string| string.as_ptr());
        pointers.chain([null()]).collect()
    };
    let (arguments, variables) = (list(arguments), list(variables));
    // SAFETY: `execveat` reads an empty path and two lists of strings, each ended by a null pointer; the strings outlive the
    // call, since their owners are borrowed.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            variables.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    last_error().into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    use super::{PROGRAM, descriptor_path, in_memory, on_disk};

    #[test]
    fn it_ends_as_its_command_does() {
        let place = tempfile::tempdir().unwrap();
        let script = place.path().join("script");
        fs::write(&script, "echo $0 $1; exit 9").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let directory = place.path().to_str().unwrap();
        let path = script.to_str().unwrap();
        let said = format!("{path} x\n");
        for (words, variables, status, output) in [
            (&["/bin/sh", "-c", "exit 7"][..], "", 7, ""),
            (&["/bin/sh", "-c", "kill -KILL $$"], "", 137, ""),
            (
                &["/bin/sh", "-c", "(sleep 0.3; echo late) & exit 3"],
                "",
                3,
                "late\n",
            ),
            // Looked for, also without a PATH; and a script without an interpreter.
            (&["sh", "-c", "exit 6"], "", 6, ""),
            (&["script", "x"], &format!("/no:{directory}"), 9, &said),
            (&[path, "x"], "", 9, &said),
            (&["no-such-program"], directory, 255, ""),
            (&["/no/such"], "", 255, ""),
            (&[], "", 255, ""),
        ] {
            let Output {
                status: ended,
                stdout,
                ..
            } = run(words, variables);
            assert_eq!(
                ended.code(),
                Some(status),
                "{words:?}: {:?}",
                ended.signal()
            );
            assert_eq!(String::from_utf8(stdout).unwrap(), output, "{words:?}");
        }
    }

    fn run(words: &[&str], path: &str) -> Output {
        let program = in_memory().unwrap();
        let mut command = Command::new(descriptor_path(&program));
        command.args(words).env_clear();
        if !path.is_empty() {
            command.env("A", "").env("PATH", path);
        }
        command.output().unwrap()
    }

    #[test]
    fn it_is_small_and_needs_no_other_file() {
        const PT_INTERP: u32 = 3;
        assert!(PROGRAM.len() < 16 << 10, "{}", PROGRAM.len());
        let at = |offset: usize| u16::from_le_bytes([PROGRAM[offset], PROGRAM[offset + 1]]);
        let headers = (0..at(56)).map(|number| 64 + usize::from(number) * 56);
        let kinds = headers
            .map(|header| u32::from_le_bytes(PROGRAM[header..header + 4].try_into().unwrap()));
        assert!(kinds.into_iter().all(|kind| kind != PT_INTERP));
    }

    #[test]
    fn a_host_without_files_in_memory_executes_it_from_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let program = on_disk(place.path()).unwrap();
        let status = Command::new(descriptor_path(&program))
            .args(["/bin/sh", "-c", "exit 5"])
            .status();
        assert_eq!(status.unwrap().code(), Some(5));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
