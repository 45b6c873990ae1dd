//! Starts a guest: checks first, then a context number, a specification and a monitor.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use vhashify_config::capabilities;
use vhashify_config::running::{Running, boot};
use vhashify_config::{ConfigTree, GuestSettings, Style};
use vhashify_sys::pidfd::Process;

use super::error::Doing;
use super::sealed::Sealed;
use super::state::{Observed, StateDirectory, now};
use super::{LifecycleError, broker, hooks, monitor, stop};
use crate::context::limits::{self, Limit};
use crate::context::{cgroup, notify, spec, sysctl};

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
    /// Who is process 1.
    pub style: Style,
    /// Whether its users are others than the host's.
    pub has_own_users: bool,
    /// Whether its monitor breaks links for it.
    pub has_broker: bool,
    /// The priority of all its processes.
    pub nice: Option<i32>,
    /// What it may use.
    pub limits: Vec<Limit>,
    /// `sysctl/*`, of its own namespaces.
    pub sysctls: Vec<(String, String)>,
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
    let mut settings = settings.clone();
    if command.is_some() {
        settings.init.style = Style::Plain;
    }
    let settings = &settings;
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
    let style = settings.init.style;
    let arguments = match command {
        Some(command) => command,
        None => start_command(settings, &vdir)?,
    };
    if style.boots() && !cgroup::has_unified() {
        return Err(LifecycleError::Start {
            name: name.clone(),
            reason: "an init that boots a guest needs cgroup version 2, which is not mounted on this \
                     host; mount it (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified), or write plain \
                     into apps/init/style"
                .to_owned(),
        });
    }
    let set =
        capabilities::of_guest(&settings.capabilities).map_err(|word| LifecycleError::Setting {
            path: settings.directory.join("bcapabilities"),
            reason: format!("{word:?} is no capability; capabilities(7) lists them"),
        })?;
    let devices = look_at_devices(settings)?;
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
    let given = Given {
        capabilities: set,
        arguments: &arguments,
        devices: &devices,
    };
    let compiled = specification(settings, state, context, &given);
    let started = prepare(state, &running, &compiled).and_then(|()| {
        if let Some(bucket) = &settings.resources.bucket {
            super::limits::keep_bucket(state, bucket)?;
        }
        let order = order(settings, state, &running);
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

/// What was found out of a guest's settings.
struct Given<'a> {
    capabilities: CapabilitySet,
    /// The program of its process 1, and what it is told.
    arguments: &'a [String],
    devices: &'a [spec::DeviceNode],
}

/// All that the container is, for `libcontainer`.
fn specification(
    settings: &GuestSettings,
    state: &StateDirectory,
    context: u32,
    given: &Given<'_>,
) -> serde_json::Value {
    let place = |below| monitor::place(state, settings.has_own_users, below);
    let rootfs = place("rootfs");
    let (root, cgroup) = (rootfs.to_string_lossy(), cgroup::path(context));
    let mut compiled = spec::compile(
        settings,
        given.capabilities,
        given.arguments,
        &root,
        &cgroup,
    );
    if settings.init.style.boots() {
        spec::add_console(&mut compiled, &place("console"));
    }
    if settings.has_own_users {
        spec::add_users(&mut compiled, context);
    }
    spec::add_devices(&mut compiled, given.devices);
    if settings.has_broker() {
        notify::add(&mut compiled, &broker::socket(state));
    }
    compiled
}

/// What the monitor is to make of it.
fn order(settings: &GuestSettings, state: &StateDirectory, running: &Running) -> Order {
    Order {
        name: settings.name.clone(),
        state_dir: state.top().to_path_buf(),
        running: running.clone(),
        style: settings.init.style,
        has_own_users: settings.has_own_users,
        has_broker: settings.has_broker(),
        nice: settings.nice,
        limits: limits::of_guest(&settings.resources),
        sysctls: own_parameters(settings),
        cgroup: settings.cgroup.clone(),
        network: (!settings.shares_network).then(|| {
            let interfaces = settings.interfaces.iter();
            interfaces.map(|i| (i.address, i.name.clone())).collect()
        }),
    }
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
        Style::Systemd => &[
            &["/lib/systemd/systemd"],
            &["/usr/lib/systemd/systemd"],
            &["/sbin/init"],
        ],
        Style::Minit => &[&["/sbin/minit"]],
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

/// The parameters that can be the guest's own; each other one is named.
fn own_parameters(settings: &GuestSettings) -> Vec<(String, String)> {
    let mut own = settings.resources.sysctls.clone();
    own.retain(|(name, _)| {
        let fault = sysctl::fault(name, settings.shares_network);
        if let Some(why) = fault {
            let directory = settings.directory.join("sysctl");
            tracing::warn!("{}: {name} has no effect: {why}", directory.display());
        }
        fault.is_none()
    });
    own
}

/// What the devices of `vdevmap` are on this host.
fn look_at_devices(settings: &GuestSettings) -> Result<Vec<spec::DeviceNode>, LifecycleError> {
    let mut nodes = Vec::new();
    for device in &settings.resources.devices {
        let refuse = |reason: String| LifecycleError::Setting {
            path: settings.directory.join("vdevmap"),
            reason: format!("{}: {reason}", device.target.display()),
        };
        let found = fs::metadata(&device.target)
            .map_err(|error| refuse(vhashify_sys::call_error::reason(&error)))?;
        let kind = rustix::fs::FileType::from_raw_mode(found.mode());
        let is_block = kind == rustix::fs::FileType::BlockDevice;
        if !is_block && kind != rustix::fs::FileType::CharacterDevice {
            return Err(refuse("it is no device".to_owned()));
        }
        if is_block {
            tracing::warn!(
                "{} has the disk {}: it reaches all that is on it, past every protection",
                settings.name,
                device.target.display()
            );
        }
        nodes.push(spec::DeviceNode {
            path: device.path.clone(),
            is_block,
            number: (
                rustix::fs::major(found.rdev()),
                rustix::fs::minor(found.rdev()),
            ),
            mode: found.mode() & 0o777,
            owner: (found.uid(), found.gid()),
        });
    }
    Ok(nodes)
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
    cgroup::bound(running.context).doing("write into a cgroup", Path::new("/sys/fs/cgroup"))?;
    state.write(running)
}

/// Runs the monitor and waits for its answer.
fn launch(state: &StateDirectory, order: &Order, vdir: OwnedFd) -> Result<(), LifecycleError> {
    let program = Path::new("/proc/self/exe");
    let sealed = Sealed::new().doing("seal", program)?;
    let mut command = sealed.command();
    command
        .arg(monitor::MAKE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // The vdir as it was checked: its path may lead elsewhere by now.
        .stderr(Stdio::from(vdir));
    vhashify_sys::process::in_own_session(&mut command, false);
    let mut child = command.spawn().doing("start the monitor", program)?;
    drop(sealed);
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
