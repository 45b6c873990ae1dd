//! Makes init: mounts, console, container, cgroup, network, kernel parameters; then lets it run.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use rustix::fs::{Gid, Uid};
use thiserror::Error;
use vhashify_config::Style;
use vhashify_config::running::Running;
use vhashify_sys::pidfd::Process;
use vhashify_sys::process::make_reaper;
use vhashify_sys::shown::Shown;

use super::super::console::Console;
use super::super::init::{Executed, Init};
use super::super::order::{Order, null};
use super::super::state::StateDirectory;
use super::super::{LifecycleError, broker, inherited};
use super::mounts::{mount_path, mount_root, show_terminal};
use crate::context::cgroup::{self, LimitError};
use crate::context::filter::{FilterError, refuse_unnamed};
use crate::context::spec;
use crate::context::sysctl::{self, SysctlError};
use crate::network::{self, NetworkError};

/// The name of the container. It may be the same for all guests, because each has a directory of its own.
const CONTAINER: &str = "guest";

/// What the watcher of a new guest inherits.
#[derive(Debug)]
pub struct WatcherDescriptors {
    /// The monitor's end of the guest's console.
    pub console: OwnedFd,
    /// The socket of the guest's broker, if it has one.
    pub socket: Option<UnixListener>,
}

/// Why a guest could not be made, in one line for the user.
#[derive(Debug, Error)]
pub enum CreateError {
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error("nice {nice}: {}", innermost(source))]
    Nice { nice: i32, source: io::Error },
    #[error("rlimits cannot be set: {}", innermost(source))]
    ProcessLimits { source: io::Error },
    #[error("its console cannot be given to it: {}", innermost(source))]
    ConsoleOwner { source: io::Error },
    #[error("its cgroup cannot be joined: {}", innermost(source))]
    CgroupMembership { source: io::Error },
    #[error("its cgroup cannot be given to it: {}", innermost(source))]
    CgroupDelegation { source: io::Error },
    #[error("cgroup/{name} cannot be set to {value:?}: {}", innermost(source))]
    Cgroup {
        name: String,
        value: String,
        source: io::Error,
    },
    /// A descriptor for init's standard streams.
    #[error("{}", innermost(source))]
    Descriptor { source: io::Error },
    #[error("{}", innermost(source))]
    Container {
        #[from]
        source: LibcontainerError,
    },
    #[error("its init ended at once")]
    InitEnded,
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("its container could not be made")]
    Panicked,
    #[error("its reaper cannot be made: {}", innermost(source))]
    Reaper { source: io::Error },
    #[error("{} cannot be executed: {}", Shown::bytes(program.clone().into_bytes()), vhashify_sys::call_error::reason(source))]
    NotExecuted { program: String, source: io::Error },
}

/// Makes the guest as ordered, of the checked vdir. Writes its init into `running`.
pub fn create(
    order: &Order,
    state: &StateDirectory,
    vdir: &OwnedFd,
    running: &mut Running,
) -> Result<WatcherDescriptors, CreateError> {
    state.write_running(running)?;
    let rootfs = mount_path(state, order.has_own_users, "rootfs");
    let users = order
        .has_own_users
        .then(|| spec::first_user(running.context));
    mount_root(&running.vdir, vdir, &rootfs, users)?;
    if let Some(nice) = order.nice {
        vhashify_sys::process::set_nice(nice)
            .map_err(|source| CreateError::Nice { nice, source })?;
    }
    let socket = running.broker.map(|_| {
        // The watcher will open the root again, but then an error could reach nobody.
        broker::breaker(&order.name, running).and_then(|_| broker::bind(state))
    });
    let socket = socket.transpose()?;
    let console = make_console(order, state, users)?;
    let stdin = match console.terminal {
        Some(_) => console.init_end.try_clone(),
        None => null(),
    };
    let stdin = stdin.map_err(|source| CreateError::Descriptor { source })?;
    raise_hard_limits(&state.at("bundle/config.json"))?;
    let reaper = (order.style == Style::Sysv).then(|| make_reaper(&state.at("")));
    let reaper = reaper
        .transpose()
        .map_err(|source| CreateError::Reaper { source })?;
    let (executed, failed) =
        Executed::watch().map_err(|source| CreateError::Descriptor { source })?;
    let membership = cgroup::TemporaryMembership::of(running.context)
        .map_err(|source| CreateError::CgroupMembership { source })?;
    let init = Init {
        reaper: reaper.map(Arc::new),
        failed,
    };
    let mut container = build(init, state, stdin, &console)?;
    drop(membership);
    if let Some(user) = users {
        cgroup::delegate(running.context, user)
            .map_err(|source| CreateError::CgroupDelegation { source })?;
    }
    running.init = container.pid().and_then(|pid| Process::find(pid.as_raw()));
    let init = running.init.ok_or(CreateError::InitEnded)?;
    set_up(order, running.context, init.pid)?;
    state.write_running(running)?;
    container.start()?;
    drop(container);
    executed.wait().map_err(|source| CreateError::NotExecuted {
        program: program(&state.at("bundle/config.json")),
        source,
    })?;
    Ok(WatcherDescriptors {
        console: console.monitor_end,
        socket,
    })
}

/// Makes the container, in a thread of its own: its processes inherit from that thread the filter of calls that stand in
/// no filter of `libcontainer`, and this process does not have it.
fn build(
    init: Init,
    state: &StateDirectory,
    stdin: OwnedFd,
    console: &Console,
) -> Result<Container, CreateError> {
    let bundle = state.at("bundle");
    let spec = Spec::load(bundle.join("config.json")).map_err(LibcontainerError::from)?;
    let output = || -> Result<OwnedFd, CreateError> {
        let made = console.init_end.try_clone();
        made.map_err(|source| CreateError::Descriptor { source })
    };
    let (stdout, stderr) = (output()?, output()?);
    let build = || -> Result<Container, CreateError> {
        let filter = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref());
        filter.map_or(Ok(()), refuse_unnamed)?;
        let container = ContainerBuilder::new(CONTAINER.to_owned(), SyscallType::default())
            .with_root_path(state.at("container"))?
            .with_executor(init)
            .with_stdin(stdin)
            .with_stdout(stdout)
            .with_stderr(stderr)
            .as_init(bundle)
            .with_systemd(false)
            .with_detach(true)
            .build()?;
        Ok(container)
    };
    let made = std::thread::scope(|scope| scope.spawn(build).join());
    made.unwrap_or(Err(CreateError::Panicked))
}

/// The program of process 1.
fn program(specification: &Path) -> String {
    let spec = Spec::load(specification).ok();
    let process = spec.and_then(|spec| spec.process().clone());
    let words = process.and_then(|process| process.args().clone());
    words
        .unwrap_or_default()
        .into_iter()
        .next()
        .unwrap_or_default()
}

/// Raises this process's hard limits to those of the guest: `libcontainer` sets them where it can only lower them.
fn raise_hard_limits(specification: &Path) -> Result<(), CreateError> {
    let spec = Spec::load(specification).map_err(LibcontainerError::from)?;
    inherited::raise_hard_limits(&spec).map_err(|source| CreateError::ProcessLimits { source })
}

/// Makes the console. With `users`, the guest's root owns it.
fn make_console(
    order: &Order,
    state: &StateDirectory,
    users: Option<u32>,
) -> Result<Console, CreateError> {
    let console = if order.style.boots() {
        Console::terminal()
    } else {
        Console::pipe(state)
    }?;
    if let Some(terminal) = &console.terminal {
        show_terminal(terminal, &mount_path(state, order.has_own_users, "console"))?;
    }
    if let Some(user) = users {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
        rustix::fs::fchown(&console.init_end, Some(user), Some(group)).map_err(|error| {
            let source = error.into();
            CreateError::ConsoleOwner { source }
        })?;
    }
    Ok(console)
}

/// Sets limits, network and kernel parameters while the guest's init waits for its start.
fn set_up(order: &Order, context: u32, init: i32) -> Result<(), CreateError> {
    if let Some(most) = order.default_processes {
        cgroup::set_default_processes(context, most)?;
    }
    for limit in &order.limits {
        cgroup::set_limit(context, limit)?;
    }
    for (name, value) in &order.cgroup {
        cgroup::set(context, name, value).map_err(|source| CreateError::Cgroup {
            name: name.clone(),
            value: value.clone(),
            source,
        })?;
    }
    if let Some(addresses) = &order.network {
        network::set_up(context, init, addresses)?;
    }
    sysctl::apply(init, &order.sysctls)?;
    Ok(())
}

/// The first cause of an error, in one line: an administrator can do something about that one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string().replace('\n', "; ")
}
