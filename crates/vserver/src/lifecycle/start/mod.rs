//! Starts a guest: checks first, then a context number, a specification and a monitor.
//!
//! | file | what it does |
//! | --- | --- |
//! | `checks` | looks up on this host what the settings name, and refuses what cannot work |
//! | `guarded` | sees that the guard holds where the guest's shared files count on it |
//! | `users` | decides whether its users are its own |
//! | `launch` | writes the monitor's files, runs it, and waits for its answer |

pub(super) mod checks;
mod guarded;
mod launch;
mod users;

use std::path::Path;

use checks::{Checked, check};
use guarded::ensure_guard;
use launch::{launch, prepare};
use vhashify_config::running::{Ended, Running};
use vhashify_config::{ConfigTree, GuestSettings, Style};
use vhashify_sys::pidfd::Process;
use vhashify_sys::procfs::boot_id;

use super::error::Doing;
use super::limits::write_bucket;
use super::monitor::mounts::mount_path;
use super::observe::{GuestState, mend};
use super::order::Order;
use super::state::{StateDirectory, now};
use super::tidy::tidy;
use super::{LifecycleError, broker, chroot, exposure, hooks, reboot, sealed, stop};
use crate::context::{cgroup, configured, notify, spec, sysctl};

/// The context numbers for guests whose configuration has none, the same as util-vserver's.
const DYNAMIC: std::ops::RangeInclusive<u32> = 49152..=65535;

/// Starts the guest. Returns when its init runs. `command` runs as its process 1 in place of the start command.
///
/// # Errors
/// Those of [`LifecycleError`]; then nothing of the guest is left.
pub fn start(
    tree: &ConfigTree,
    settings: &GuestSettings,
    state: &StateDirectory,
    command: Option<Vec<String>>,
) -> Result<Running, LifecycleError> {
    chroot::refuse(&settings.name)?;
    let _lock = state.lock()?;
    reboot::forget(state);
    start_locked(tree, settings, state, command)
}

/// Starts the guest after it has rebooted itself, unless somebody has started or stopped it since.
///
/// # Errors
/// As [`start`].
pub fn start_again(
    tree: &ConfigTree,
    settings: &GuestSettings,
    state: &StateDirectory,
) -> Result<Option<Running>, LifecycleError> {
    chroot::refuse(&settings.name)?;
    let _lock = state.lock()?;
    if !reboot::claim(state)? {
        return Ok(None);
    }
    start_locked(tree, settings, state, None).map(Some)
}

fn start_locked(
    tree: &ConfigTree,
    settings: &GuestSettings,
    state: &StateDirectory,
    command: Option<Vec<String>>,
) -> Result<Running, LifecycleError> {
    let mut settings = settings.clone();
    if command.is_some() {
        settings.init.style = Style::Plain;
    }
    let settings = &settings;
    match mend(state)? {
        GuestState::Stopped(_) => {}
        GuestState::Running(running, _) | GuestState::Starting(running) => {
            let (name, context) = (settings.name.clone(), running.context);
            return Err(LifecycleError::AlreadyRunning { name, context });
        }
    }
    hooks::run(settings, "prepre-start")?;
    let checked = check(tree, settings, command)?;
    exposure::warn(&settings.name, &settings.vdir);
    ensure_guard(tree, settings)?;
    let running = Running {
        context: claim_context(settings)?,
        init: None,
        monitor: Process::this(),
        broker: None,
        vdir: settings.vdir.clone(),
        since: now(),
        boot: boot_id(),
        config_dir: tree.top().to_path_buf(),
    };
    if let Err(error) = make_guest(settings, state, &running, &checked) {
        // The monitor tidied up, unless it was killed.
        if let GuestState::Starting(_) | GuestState::Running(..) = mend(state)? {
            tidy(state, &running, Ended::unseen(now()))?;
        }
        let _ = cgroup::remove(running.context);
        return Err(error);
    }
    let run = |stage| hooks::run(settings, stage);
    if let Err(error) = run("post-start").and_then(|()| run("postpost-start")) {
        // The guest must not run without what its hooks should have done.
        stop::end(settings, state)?;
        return Err(error);
    }
    Ok(running)
}

/// Makes the guest, whose context number is claimed already.
fn make_guest(
    settings: &GuestSettings,
    state: &StateDirectory,
    running: &Running,
    checked: &Checked,
) -> Result<(), LifecycleError> {
    // First: a hook may mount something in the guest that decides whose its users can be.
    hooks::run(settings, "pre-start")?;
    let has_own_users = users::has_own(settings, checked, running.context);
    let compiled = specification(settings, state, running.context, checked, has_own_users);
    prepare(state, running, &compiled)?;
    if let Some(bucket) = &settings.resources.bucket {
        write_bucket(state, bucket)?;
    }
    let order = order(settings, state, running, has_own_users);
    launch(state, &order, &checked.vdir)
}

/// The OCI specification of the container, for `libcontainer`.
fn specification(
    settings: &GuestSettings,
    state: &StateDirectory,
    context: u32,
    checked: &Checked,
    has_own_users: bool,
) -> serde_json::Value {
    let path = |below| mount_path(state, has_own_users, below);
    let rootfs = path("rootfs");
    let (root, cgroup) = (rootfs.to_string_lossy(), cgroup::path(context));
    let mut compiled = spec::compile(
        settings,
        checked.capabilities,
        &checked.arguments,
        &root,
        &cgroup,
    );
    if settings.init.style.boots() {
        spec::add_console(&mut compiled, &path("console"));
    }
    if has_own_users {
        spec::add_users(&mut compiled, context);
    }
    spec::add_devices(&mut compiled, &checked.devices);
    if settings.has_broker() {
        notify::add(&mut compiled, &broker::socket(state));
    }
    compiled
}

/// The order for the monitor.
fn order(
    settings: &GuestSettings,
    state: &StateDirectory,
    running: &Running,
    has_own_users: bool,
) -> Order {
    Order {
        name: settings.name.clone(),
        state_dir: state.top().to_path_buf(),
        running: running.clone(),
        origin: sealed::program_on_disk(),
        style: settings.init.style,
        has_own_users,
        has_broker: settings.has_broker(),
        nice: settings.nice,
        limits: configured::limits(&settings.resources),
        default_processes: configured::default_processes(&settings.resources),
        sysctls: own_parameters(settings),
        cgroup: settings.cgroup.clone(),
        network: (!settings.shares_network).then(|| {
            let interfaces = settings.interfaces.iter();
            interfaces.map(|i| (i.address, i.name.clone())).collect()
        }),
    }
}

/// The kernel parameters that a namespace can have for itself. Warns of each other one.
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

/// Claims the context number that the guest's configuration has, else the first free one.
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
