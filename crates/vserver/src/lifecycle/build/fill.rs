//! Fills a new vdir. Most methods run the program that is made for it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Seek};
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

/// Makes `vdir` and fills it.
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
    let name = state.name();
    match method {
        Method::Debootstrap {
            suite,
            mirror,
            arguments,
        } => {
            let mut command = Command::new("debootstrap");
            command.args(arguments).arg(suite).arg(vdir).args(mirror);
            run(name, &mut command)
        }
        Method::Template(archives) => {
            archives
                .iter()
                .enumerate()
                .try_for_each(|(number, archive)| {
                    if number > 0 {
                        check_members(name, archive, vdir)?;
                    }
                    let mut command = Command::new("tar");
                    command
                        .args(["--extract", "--preserve-permissions", "--numeric-owner"])
                        .args(["--xattrs", "--xattrs-include=*", "--acls", "--same-owner"])
                        .arg("--directory")
                        .arg(vdir)
                        .arg("--file")
                        .arg(std::path::absolute(archive).doing("look at", archive)?);
                    run(name, &mut command)
                })
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
                .arg("--one-file-system")
                .arg(contents)
                .arg(vdir);
            run(name, &mut command)
        }
        Method::Skeleton => SKELETON.iter().try_for_each(|(below, mode)| {
            let path = vdir.join(below);
            fs::create_dir(&path).doing("mkdir", &path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).doing("chmod", &path)
        }),
        Method::Oci { source, reference } => unpack(name, source, reference.as_deref(), vdir),
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

/// Refuses an archive with a member that a link of an earlier archive would lead out of the guest.
fn check_members(name: &str, archive: &Path, vdir: &Path) -> Result<(), LifecycleError> {
    let failed = |reason: &dyn std::fmt::Display| LifecycleError::Build {
        name: name.to_owned(),
        reason: format!("{}: {reason}", archive.display()).into(),
    };
    // It is read twice, which a pipe cannot be.
    if !fs::metadata(archive).doing("stat", archive)?.is_file() {
        return Err(failed(&"it is not a plain file"));
    }
    let mut command = Command::new("tar");
    command
        .env("LC_ALL", "C")
        .args(members::OPTIONS)
        .arg("--file")
        .arg(std::path::absolute(archive).doing("look at", archive)?);
    let mut log = run_logged(name, &mut command)?;
    let root = vhashify_sys::resolve::open_host_directory(vdir).doing("open", vdir)?;
    let mut listing = Vec::new();
    log.rewind().doing("read", archive)?;
    log.read_to_end(&mut listing).doing("read", archive)?;
    members::check(&listing, &root).map_err(|error| failed(&error))
}

/// Unpacks an image. A signal for this process interrupts it.
fn unpack(
    name: &str,
    source: &Path,
    reference: Option<&str>,
    vdir: &Path,
) -> Result<(), LifecycleError> {
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
/// program and all that it started, so that its files can be removed.
fn run(name: &str, command: &mut Command) -> Result<(), LifecycleError> {
    run_logged(name, command).map(drop)
}

/// Runs it as [`run`] does, and returns its output.
fn run_logged(name: &str, command: &mut Command) -> Result<fs::File, LifecycleError> {
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
    command.stdin(Stdio::null());
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

/// The last line of a program's output, for a message of one line.
fn last_line(mut log: fs::File) -> String {
    let mut bytes = Vec::new();
    let read = log.rewind().and_then(|()| log.read_to_end(&mut bytes));
    drop(read);
    let text = String::from_utf8_lossy(&bytes);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.unwrap_or("it said nothing").trim().to_owned();
    vhashify_sys::shown::Shown::bytes(last.into_bytes()).to_string()
}
