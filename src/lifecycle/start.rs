//! Starts a guest: checks first, then a context number, a specification and a monitor.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::Doing;
use super::process::Process;
use super::sealed::Sealed;
use super::state::{Observed, Running, StateDirectory, boot, now};
use super::{LifecycleError, broker, hooks, monitor, stop};
use crate::config::{ConfigTree, GuestSettings, Style};
use crate::context::{capabilities, cgroup, notify, spec};

/// Context numbers for guests that have none of their own, as util-vserver gave them.
const DYNAMIC: std::ops::RangeInclusive<u32> = 49152..=65535;

/// What a monitor is told, on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// The guest.
    pub name: String,
    /// The directory of all guests' states.
    pub state_dir: PathBuf,
    /// What is to become true.
    pub running: Running,
    /// Whether process 1 is a reaper.
    pub is_reaped: bool,
    /// Whether its monitor breaks links for it.
    pub has_broker: bool,
    /// The priority of all its processes.
    pub nice: Option<i32>,
    /// `cgroup/*`.
    pub cgroup: Vec<(String, String)>,
    /// Its addresses; none where the network is the host's.
    pub network: Option<Vec<(std::net::IpAddr, String)>>,
}

/// What a monitor answers, on its standard output: one line.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Init runs.
    Started,
    /// It does not, and nothing of it is left.
    Failed(String),
}

/// Starts the guest. Returns when its init runs.
///
/// # Errors
/// What [`LifecycleError`] lists; then nothing of the guest is there.
pub fn start(
    tree: &ConfigTree,
    settings: &GuestSettings,
    state: &StateDirectory,
    command: Option<Vec<String>>,
) -> Result<Running, LifecycleError> {
    let _lock = state.lock()?;
    let name = &settings.name;
    match state.observe()? {
        Observed::Stopped(_) => {}
        Observed::Running(running, _) | Observed::Starting(running) => {
            let (name, context) = (name.clone(), running.context);
            return Err(LifecycleError::AlreadyRunning { name, context });
        }
    }
    hooks::run(settings, "prepre-start")?;
    let vdir = open_vdir(tree, settings)?;
    check_mount_points(settings, &vdir)?;
    let (arguments, style) = match command {
        Some(command) => (command, Style::Plain),
        None => (start_command(settings, &vdir)?, settings.init.style),
    };
    let set =
        capabilities::of_guest(&settings.capabilities).map_err(|word| LifecycleError::Setting {
            path: settings.directory.join("bcapabilities"),
            reason: format!("{word:?} is no capability; capabilities(7) lists them"),
        })?;
    let context = claim_context(settings)?;
    let running = Running {
        context,
        init: None,
        monitor: Process::this(),
        broker: None,
        vdir: settings.vdir.clone(),
        since: now(),
        boot: boot(),
        config_dir: tree.top().to_path_buf(),
    };
    let rootfs = state.at("bundle/rootfs");
    let text = rootfs.to_string_lossy();
    let mut compiled = spec::compile(settings, set, &arguments, &text, &cgroup::path(context));
    if settings.has_broker() {
        notify::add(&mut compiled, &broker::socket(state));
    }
    let started = prepare(state, &running, &compiled).and_then(|()| {
        let order = Order {
            name: name.clone(),
            state_dir: state.top().to_path_buf(),
            running: running.clone(),
            is_reaped: style == Style::Sysv,
            has_broker: settings.has_broker(),
            nice: settings.nice,
            cgroup: settings.cgroup.clone(),
            network: (!settings.shares_network).then(|| {
                let interfaces = settings.interfaces.iter();
                interfaces.map(|i| (i.address, i.name.clone())).collect()
            }),
        };
        hooks::run(settings, "pre-start")?;
        launch(state, &order, vdir)
    });
    if let Err(error) = started {
        // The monitor tidied up, unless it was killed.
        let unseen = super::Ended {
            status: None,
            signal: None,
            at: now(),
        };
        if let Observed::Starting(_) | Observed::Running(..) = state.observe()? {
            state.tidy(&running, unseen)?;
        }
        let _ = cgroup::remove(context);
        return Err(error);
    }
    let told =
        hooks::run(settings, "post-start").and_then(|()| hooks::run(settings, "postpost-start"));
    if let Err(error) = told {
        // It is not to run without what its hooks should have done.
        stop::end(settings, state)?;
        return Err(error);
    }
    Ok(running)
}

/// Opens the vdir, and makes sure that it is nobody else's.
pub(super) fn open_vdir(
    tree: &ConfigTree,
    settings: &GuestSettings,
) -> Result<OwnedFd, LifecycleError> {
    let refuse = |reason: String| LifecycleError::Vdir {
        name: settings.name.clone(),
        vdir: settings.vdir.clone(),
        reason,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let vdir =
        rustix::fs::open(&settings.vdir, flags, Mode::empty()).doing("open", &settings.vdir)?;
    let own = rustix::fs::fstat(&vdir).doing("stat", &settings.vdir)?;
    let host = fs::metadata("/").doing("stat", Path::new("/"))?;
    if (own.st_dev, own.st_ino) == (host.dev(), host.ino()) {
        return Err(refuse(
            "it is the host's root directory; point the guest's vdir to one of its own".into(),
        ));
    }
    for other in tree.all_names()? {
        if other == *settings.name {
            continue;
        }
        // A guest that is broken is not this one's fault.
        let Ok(path) = tree.vdir(&other) else {
            continue;
        };
        let other = other.to_string_lossy();
        let is_same = fs::metadata(&path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (own.st_dev, own.st_ino));
        if is_same {
            return Err(refuse(format!(
                "the guest {other} has the same; point one of them to a directory of its own"
            )));
        }
        if path.starts_with(&settings.vdir) || settings.vdir.starts_with(&path) {
            return Err(refuse(format!(
                "it and that of the guest {other} lie in one another; move one of them"
            )));
        }
    }
    Ok(vdir)
}

/// Looks at each place in the guest where something is mounted: a link there would lead the mount,
/// and the device nodes made in it, to where the link points.
fn check_mount_points(settings: &GuestSettings, vdir: &OwnedFd) -> Result<(), LifecycleError> {
    for point in spec::mount_points(settings) {
        let below = point.trim_start_matches('/');
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(vdir, below, flags, Mode::empty(), resolve) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(_) => {
                return Err(LifecycleError::Vdir {
                    name: settings.name.clone(),
                    vdir: settings.vdir.clone(),
                    reason: format!(
                        "{point} in it is, or is behind, a symbolic link; replace it by a directory"
                    ),
                });
            }
        }
    }
    Ok(())
}

/// `cmd.start`, or what the style starts without one.
fn start_command(settings: &GuestSettings, vdir: &OwnedFd) -> Result<Vec<String>, LifecycleError> {
    if let Some(command) = &settings.init.start {
        return Ok(command.clone());
    }
    let runlevel = settings.init.runlevel.as_deref().unwrap_or("3");
    let candidates: &[&[&str]] = match settings.init.style {
        Style::Plain => &[&["/sbin/init"]],
        Style::Sysv => &[&["/etc/init.d/rc", runlevel], &["/etc/rc.d/rc", runlevel]],
    };
    let is_there = |candidate: &&&[&str]| {
        let below = candidate[0].trim_start_matches('/');
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(vdir, below, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
    };
    match candidates.iter().find(is_there) {
        Some(found) => Ok(found.iter().map(|&argument| argument.to_owned()).collect()),
        None => Err(LifecycleError::Start {
            name: settings.name.clone(),
            reason: format!(
                "it has no {}; write its start command into {}, one argument a line",
                candidates[0][0],
                settings.directory.join("apps/init/cmd.start").display()
            ),
        }),
    }
}

fn claim_context(settings: &GuestSettings) -> Result<u32, LifecycleError> {
    let claim =
        |context| cgroup::claim(context).doing("mkdir of a cgroup", Path::new("/sys/fs/cgroup"));
    if let Some(context) = settings.context {
        if claim(context)? {
            return Ok(context);
        }
        return Err(LifecycleError::ContextTaken {
            name: settings.name.clone(),
            context,
        });
    }
    for context in DYNAMIC {
        if claim(context)? {
            return Ok(context);
        }
    }
    Err(LifecycleError::NoContext)
}

/// Writes what the monitor and `libcontainer` read.
fn prepare(
    state: &StateDirectory,
    running: &Running,
    spec: &serde_json::Value,
) -> Result<(), LifecycleError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    for below in ["bundle/rootfs", "container"] {
        let path = state.at(below);
        builder.create(&path).doing("mkdir", &path)?;
    }
    // Left by a stop that was killed.
    drop(fs::remove_file(state.at("stopping")));
    let path = state.at("bundle/config.json");
    fs::write(&path, spec.to_string()).doing("write", &path)?;
    state.write(running)
}

/// Runs the monitor and waits for its answer.
fn launch(state: &StateDirectory, order: &Order, vdir: OwnedFd) -> Result<(), LifecycleError> {
    let program = Path::new("/proc/self/exe");
    let copy = Sealed::copy().doing("copy", program)?;
    let mut command = copy.command();
    command
        .arg(monitor::MAKE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // The vdir as it was checked: its path may lead elsewhere by now.
        .stderr(Stdio::from(vdir));
    crate::sys::process::in_own_session(&mut command, false);
    let mut child = command.spawn().doing("start the monitor", program)?;
    if let Some(mut stdin) = child.stdin.take() {
        let text = serde_json::to_vec(order).unwrap_or_default();
        stdin
            .write_all(&text)
            .doing("write to the monitor", program)?;
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .doing("read from the monitor", program)?;
    }
    let failed = |reason: String| LifecycleError::Start {
        name: state.name().to_owned(),
        reason,
    };
    match serde_json::from_str(&line) {
        Ok(Answer::Started) => Ok(()),
        Ok(Answer::Failed(reason)) => {
            drop(child.wait());
            Err(failed(reason))
        }
        Err(_) => {
            let status = child.wait().doing("wait for the monitor", program)?;
            Err(failed(format!("its monitor ended early, with {status}")))
        }
    }
}

/// A file of the host's that a guest may neither read nor write, for its standard input.
pub(super) fn null() -> std::io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}
