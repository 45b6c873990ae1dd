//! Fills a new vdir. Most methods run the program that is made for it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vhashify_config::ConfigTree;
use vhashify_sys::pidfd::Process;
use vhashify_sys::process::{in_own_session, next_signal, signals_as_descriptor};
use vhashify_sys::procfs;

use super::super::error::{Doing, Reason};
use super::super::observe::{GuestState, mend};
use super::super::{LifecycleError, StateDirectory};
use super::left_out::{self, LeftOut};
use super::{clone, members};

/// Where a guest's files come from.
#[derive(Debug, Clone)]
pub enum Method {
    /// debootstrap(8), from a mirror of Debian.
    Debootstrap {
        /// The release.
        suite: String,
        /// The mirror, else debootstrap's own.
        mirror: Option<String>,
        /// Further arguments of debootstrap.
        arguments: Vec<OsString>,
    },
    /// One or more tar archives, compressed or not, unpacked over one another.
    Template(Vec<PathBuf>),
    /// A directory, by rsync(1).
    Rsync(PathBuf),
    /// Only the directories that a guest must have.
    Skeleton,
    /// An image of an OCI layout, which is a directory or a tar archive of one.
    Oci {
        /// The layout.
        source: PathBuf,
        /// The name of the image.
        reference: Option<String>,
    },
    /// Another guest that does not run, by its name or its root directory.
    Clone(OsString),
}

/// The directories of a skeleton, with their modes.
const SKELETON: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
];

/// How rsync tells of each file that it leaves out because of its kind.
const SKIPPED: &[u8] = b"skipping non-regular file ";

/// Makes `vdir` and fills it. Warns of what it leaves out.
pub fn fill(
    tree: &ConfigTree,
    state: &StateDirectory,
    method: &Method,
    vdir: &Path,
) -> Result<(), LifecycleError> {
    fs::DirBuilder::new()
        .mode(0o755)
        .create(vdir)
        .doing("mkdir", vdir)?;
    let mut out = by_method(tree, state, method, vdir)?;
    // A clone may have objects of the store, which are not its own to change.
    if !matches!(method, Method::Clone(_)) {
        out = out.and(left_out::remove(vdir)?);
    }
    out.warn(state.name());
    Ok(())
}

fn by_method(
    tree: &ConfigTree,
    state: &StateDirectory,
    method: &Method,
    vdir: &Path,
) -> Result<LeftOut, LifecycleError> {
    let name = state.name();
    match method {
        Method::Debootstrap {
            suite,
            mirror,
            arguments,
        } => {
            let mut command = Command::new("debootstrap");
            command.args(arguments).arg(suite).arg(vdir).args(mirror);
            run(name, &mut command).map(|_| LeftOut::default())
        }
        Method::Template(archives) => {
            let mut out = LeftOut::default();
            for (number, archive) in archives.iter().enumerate() {
                out = out.and(extract(name, archive, vdir, number == 0)?);
            }
            Ok(out)
        }
        Method::Rsync(source) => {
            fs::read_dir(source).doing("read", source)?;
            let mut contents = std::path::absolute(source)
                .doing("look at", source)?
                .into_os_string();
            contents.push("/");
            let mut command = Command::new("rsync");
            command
                .args([
                    "--archive",
                    "--hard-links",
                    "--acls",
                    "--xattrs",
                    "--numeric-ids",
                ])
                .args(["--one-file-system", "--no-devices"])
                .arg(contents)
                .arg(vdir);
            let said = read_all(run(name, &mut command)?).doing("read", source)?;
            let skipped = said
                .split(|byte| *byte == b'\n')
                .filter(|line| line.starts_with(SKIPPED));
            Ok(LeftOut::devices(skipped.count()))
        }
        Method::Skeleton => {
            for (below, mode) in SKELETON {
                let path = vdir.join(below);
                fs::create_dir(&path).doing("mkdir", &path)?;
                let mode = fs::Permissions::from_mode(mode);
                fs::set_permissions(&path, mode).doing("chmod", &path)?;
            }
            Ok(LeftOut::default())
        }
        Method::Oci { source, reference } => {
            unpack(name, source, reference.as_deref(), vdir).map(LeftOut::devices)
        }
        Method::Clone(source) => {
            clone::clone(tree, name, &root_of_source(tree, state, source)?, vdir)
        }
    }
}

/// The root directory to clone. Refuses a guest that runs.
fn root_of_source(
    tree: &ConfigTree,
    state: &StateDirectory,
    source: &OsStr,
) -> Result<PathBuf, LifecycleError> {
    if source.as_encoded_bytes().contains(&b'/') {
        return Ok(PathBuf::from(source));
    }
    let settings = tree.settings(source)?;
    let other = StateDirectory::new(state.top(), &settings.name);
    match mend(&other)? {
        GuestState::Stopped(_) => Ok(settings.vdir),
        GuestState::Starting(_) | GuestState::Running(..) => Err(LifecycleError::Build {
            name: state.name().to_owned(),
            reason: format!(
                "{} is running, and files would be copied half written; stop it first",
                settings.name
            )
            .into(),
        }),
    }
}

/// Unpacks an archive, but for its device nodes, of which tar could make none. Refuses one with a member that a link of
/// an earlier archive would lead out of the guest.
fn extract(
    name: &str,
    archive: &Path,
    vdir: &Path,
    is_first: bool,
) -> Result<LeftOut, LifecycleError> {
    let failed = |reason: &dyn std::fmt::Display| LifecycleError::Build {
        name: name.to_owned(),
        reason: format!("{}: {reason}", archive.display()).into(),
    };
    let path = std::path::absolute(archive).doing("look at", archive)?;
    // It is read twice, which a pipe cannot be.
    let is_file = fs::metadata(archive).doing("stat", archive)?.is_file();
    let mut devices = Vec::new();
    if is_file {
        let mut command = Command::new("tar");
        command.args(members::OPTIONS).arg("--file").arg(&path);
        let listing = read_all(run(name, &mut command)?).doing("read", archive)?;
        if !is_first {
            let root = vhashify_sys::resolve::open_host_directory(vdir).doing("open", vdir)?;
            members::check(&listing, &root).map_err(|error| failed(&error))?;
        }
        devices = members::devices(&listing);
    } else if !is_first {
        return Err(failed(&"it is not a plain file"));
    }
    let mut command = Command::new("tar");
    command
        .args(["--extract", "--preserve-permissions", "--numeric-owner"])
        .args(["--xattrs", "--xattrs-include=*", "--acls", "--same-owner"])
        .args(["--anchored", "--no-wildcards"])
        .args(devices.iter().map(|device| {
            let mut option = OsString::from("--exclude=");
            option.push(OsStr::from_bytes(device));
            option
        }))
        .arg("--directory")
        .arg(vdir)
        .arg("--file")
        .arg(path);
    run(name, &mut command)?;
    Ok(LeftOut::devices(devices.len()))
}

/// Unpacks an image, and counts its device nodes, which are left out. A signal for this process interrupts it.
fn unpack(
    name: &str,
    source: &Path,
    reference: Option<&str>,
    vdir: &Path,
) -> Result<usize, LifecycleError> {
    let failed = |reason: Reason| LifecycleError::Build {
        name: name.to_owned(),
        reason,
    };
    let signals = signals_as_descriptor(&WATCHED)
        .map_err(|error| failed(format!("signals cannot be watched: {error}").into()))?;
    let check_signals = || match next_signal(&signals) {
        None => Ok(()),
        Some(signal) => Err(std::io::Error::other(format!(
            "interrupted by signal {signal}"
        ))),
    };
    super::oci::unpack(source, reference, vdir, &check_signals)
        .map_err(|error| failed(error.into()))
}

/// Signals that interrupt a build, which removes its files then.
const WATCHED: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Runs a program that fills a guest. If it fails, the error has its last line. A signal for this process kills the
/// program and all that it started, so that its files can be removed. Returns its output.
fn run(name: &str, command: &mut Command) -> Result<fs::File, LifecycleError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |reason: String| LifecycleError::Build {
        name: name.to_owned(),
        reason: reason.into(),
    };
    let log = tempfile().map_err(|error| failed(format!("no log can be kept: {error}")))?;
    let again = || log.try_clone().map(Stdio::from);
    let outputs = [again(), again()];
    for output in outputs.into_iter().enumerate() {
        let (number, Ok(output)) = output else {
            continue;
        };
        if number == 0 {
            command.stdout(output);
        } else {
            command.stderr(output);
        }
    }
    command.env("LC_ALL", "C").stdin(Stdio::null());
    in_own_session(command, None);
    let signals = signals_as_descriptor(&WATCHED)
        .map_err(|error| failed(format!("signals cannot be watched: {error}")))?;
    let mut child = command.spawn().map_err(|error| {
        let words = vhashify_sys::call_error::reason(&error);
        failed(format!("{program} cannot be run: {words}; install it"))
    })?;
    loop {
        if let Some(signal) = next_signal(&signals) {
            end_session(child.id());
            drop(child.wait());
            return Err(failed(format!("interrupted by signal {signal}")));
        }
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(log),
            Ok(Some(status)) => {
                return Err(failed(format!(
                    "{program} failed ({status}): {}",
                    last_line(log)
                )));
            }
            Ok(None) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(error) => return Err(failed(format!("{program} cannot be waited for: {error}"))),
        }
    }
}

/// Kills every process of a session.
fn end_session(leader: u32) {
    for pid in procfs::processes().unwrap_or_default() {
        let session = procfs::stat(pid).map(|stat| stat.session);
        if session.is_ok_and(|session| session.cast_unsigned() == leader)
            && let Some(process) = Process::find(pid)
        {
            process.signal(libc::SIGKILL);
        }
    }
}

fn tempfile() -> std::io::Result<fs::File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(rustix::fs::memfd_create("log", flags)?.into())
}

/// All of a program's output.
fn read_all(mut log: fs::File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    log.rewind()?;
    log.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last line of a program's output, for a message of one line.
fn last_line(log: fs::File) -> String {
    let bytes = read_all(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.unwrap_or("it said nothing").trim().to_owned();
    vhashify_sys::shown::Shown::bytes(last.into_bytes()).to_string()
}
