//! Who makes a guest's init, and watches it until it ends.
//!
//! ```text
//! MAKE    the sealed program: mounts, container, init; answers; becomes ↓
//! WATCH   the program on the disk, so that guests share its memory: console, exit, tidying
//! ```
//!
//! A monitor has a mount namespace of its own, in which the guest's root is mounted: when monitor and
//! guest are gone, so are the mounts, however they ended. A monitor that was killed gets a successor by
//! the next command that looks at the guest; meanwhile the guest goes on, for it holds its console's
//! pipe open itself.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Gid, StatVfsMountFlags, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};
use vhashify_config::running::{Ended, Running};
use vhashify_sys::pidfd::Process;

use super::LifecycleError;
use super::broker;
use super::console::{Console, Watched};
use super::error::Doing;
use super::init::Init;
use super::sealed;
use super::start::{Answer, Order, null};
use super::state::{StateDirectory, now};
use crate::context::{cgroup, spec, sysctl};
use crate::network;

/// The first argument of a monitor that makes a guest; its order is on standard input.
pub const MAKE: &str = "--monitor-make";
/// The first argument of a monitor that watches one; then state directory, guest, whether it may
/// be started again.
pub const WATCH: &str = "--monitor-watch";

/// Where a guest with users of its own has its root and its console while they are mounted.
const IN_MEMORY: &str = "/run/vserver-users";
/// `libcontainer`'s name for every guest, in a directory of its own.
const CONTAINER: &str = "guest";

/// Makes a guest's init as ordered, answers, and goes on as its watcher.
#[must_use]
pub fn make() -> ExitCode {
    // For init, which gets what this process has. Whoever typed the command may ignore SIGINT, by which a guest
    // is asked to stop.
    vhashify_sys::process::restore_signals();
    let mut text = Vec::new();
    let order = io::stdin()
        .read_to_end(&mut text)
        .ok()
        .and_then(|_| serde_json::from_slice::<Order>(&text).ok());
    let Some(order) = order else {
        return ExitCode::FAILURE;
    };
    let state = StateDirectory::new(&order.state_dir, &order.name);
    let mut running = order.running.clone();
    running.monitor = Process::this();
    running.broker = order.has_broker.then_some(running.monitor);
    let mut kept = None;
    let created = create(&order, &state, &mut running);
    // Whoever waits for the answer may have been killed; the guest runs, and needs its monitor.
    vhashify_sys::process::ignore_broken_pipes();
    let answer = match created {
        Ok(made) => {
            kept = Some(made);
            Answer::Started
        }
        Err(error) => {
            let unseen = Ended {
                status: None,
                signal: None,
                at: now(),
            };
            unmount(&state);
            drop(state.tidy(&running, unseen));
            Answer::Failed(error)
        }
    };
    let text = serde_json::to_string(&answer).unwrap_or_default();
    drop(writeln!(io::stdout(), "{text}"));
    let Some((console, socket)) = kept else {
        return ExitCode::FAILURE;
    };
    // Where the program on the disk is gone, this copy can watch as well.
    for program in [sealed::origin(), PathBuf::from("/proc/self/exe")] {
        let mut command = command_for(&program, &state);
        // Held open across exec: what a pipe holds is lost with its last descriptor.
        if let Ok(console) = console.try_clone() {
            command.stdin(Stdio::from(console));
        }
        if let Some(Ok(socket)) = socket.as_ref().map(UnixListener::try_clone) {
            command.stdout(Stdio::from(OwnedFd::from(socket)));
        }
        drop(command.exec());
    }
    ExitCode::FAILURE
}

/// Starts a watcher for a guest whose monitor died.
pub(super) fn succeed(
    state: &StateDirectory,
    running: &Running,
    init: Process,
) -> Result<(), LifecycleError> {
    // One successor: whoever starts or stops the guest at this moment sees to it himself.
    let Ok(_lock) = state.lock() else {
        return Ok(());
    };
    if known(state).is_none_or(|known| known != *running) {
        return Ok(());
    }
    let program = sealed::origin();
    let mut command = command_for(&program, state);
    vhashify_sys::process::in_own_session(&mut command, false);
    let child = command.spawn().doing("start the monitor", &program)?;
    let successor = i32::try_from(child.id()).ok().and_then(Process::find);
    let running = Running {
        monitor: successor.unwrap_or(running.monitor),
        init: Some(init),
        ..running.clone()
    };
    state.write(&running)
}

fn command_for(program: &Path, state: &StateDirectory) -> Command {
    let mut command = Command::new(program);
    command
        .arg0("vserver")
        .args([
            WATCH.as_ref(),
            state.top().as_os_str(),
            state.name().as_ref(),
        ])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Mounts, container, network, init. Gives the pipe of its console, and the socket of its broker if it
/// has one. The text of an error is for the user.
fn create(
    order: &Order,
    state: &StateDirectory,
    running: &mut Running,
) -> Result<(OwnedFd, Option<UnixListener>), String> {
    let told = |error: &dyn std::error::Error| innermost(error);
    state.write(running).map_err(|error| error.to_string())?;
    let rootfs = place(state, order.has_own_users, "rootfs");
    let users = order
        .has_own_users
        .then(|| spec::first_user(running.context));
    mount_root(&running.vdir, &rootfs, users).map_err(|error| error.to_string())?;
    if let Some(nice) = order.nice {
        vhashify_sys::process::set_nice(nice)
            .map_err(|error| format!("nice {nice}: {}", told(&error)))?;
    }
    let socket = running.broker.map(|_| {
        // What it will need is there.
        broker::breaker(&order.name, running).and_then(|_| broker::bind(state))
    });
    let socket = socket.transpose().map_err(|error| error.to_string())?;
    let console = if order.style.boots() {
        Console::terminal()
    } else {
        Console::pipe(state)
    };
    let console = console.map_err(|error| error.to_string())?;
    if let Some(terminal) = &console.terminal {
        let place = place(state, order.has_own_users, "console");
        show_terminal(terminal, &place).map_err(|error| error.to_string())?;
    }
    if let Some(user) = users {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
        let owned = rustix::fs::fchown(&console.of_init, Some(user), Some(group));
        owned.map_err(|error| format!("its console cannot be given to it: {}", told(&error)))?;
    }
    let again = |fd: &OwnedFd| fd.try_clone().map_err(|error| told(&error));
    let stdin = match console.terminal {
        Some(_) => again(&console.of_init)?,
        None => null().map_err(|error| told(&error))?,
    };
    let lent = cgroup::Lent::to(running.context)
        .map_err(|error| format!("its cgroup cannot be joined: {}", told(&error)))?;
    let mut container = ContainerBuilder::new(CONTAINER.to_owned(), SyscallType::default())
        .with_root_path(state.at("container"))
        .map_err(|error| told(&error))?
        .with_executor(Init { style: order.style })
        .with_stdin(stdin)
        .with_stdout(again(&console.of_init)?)
        .with_stderr(again(&console.of_init)?)
        .as_init(state.at("bundle"))
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|error| told(&error))?;
    drop(lent);
    if let Some(user) = users {
        let given = cgroup::give(running.context, user);
        given.map_err(|error| format!("its cgroup cannot be given to it: {}", told(&error)))?;
    }
    running.init = container.pid().and_then(|pid| Process::find(pid.as_raw()));
    let init = running.init.ok_or("its init ended at once")?;
    for limit in &order.limits {
        cgroup::limit(running.context, limit)?;
    }
    for (name, value) in &order.cgroup {
        cgroup::set(running.context, name, value).map_err(|error| {
            format!("cgroup/{name} cannot be set to {value:?}: {}", told(&error))
        })?;
    }
    if let Some(addresses) = &order.network {
        network::set_up(running.context, init.pid, addresses)?;
    }
    sysctl::apply(init.pid, &order.sysctls)?;
    state.write(running).map_err(|error| error.to_string())?;
    container.start().map_err(|error| told(&error))?;
    Ok((console.kept, socket))
}

/// Puts a terminal, which gets its name only now, at the place that the specification names.
fn show_terminal(terminal: &Path, place: &Path) -> Result<(), LifecycleError> {
    drop(fs::remove_file(place));
    fs::File::create(place).doing("create", place)?;
    rustix::mount::mount_bind(terminal, place).doing("mount", place)
}

/// The cause that an administrator can do something about.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string().replace('\n', "; ")
}

/// Where the monitor's own mounts for the guest are. Root of a guest with users of its own is nobody on the
/// host, and finds its way to no state directory: there is a place in memory for it.
pub(super) fn place(state: &StateDirectory, has_own_users: bool, below: &str) -> PathBuf {
    match below {
        _ if has_own_users => Path::new(IN_MEMORY).join(below),
        "rootfs" => state.at("bundle/rootfs"),
        _ => state.at(below),
    }
}

/// Makes the place in memory, in this process's mounts alone.
fn make_place_in_memory() -> Result<(), LifecycleError> {
    let place = Path::new(IN_MEMORY);
    fs::create_dir_all(place).doing("mkdir", place)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", place, "tmpfs", flags, c"mode=711,size=64k")
        .doing("mount", place)?;
    let rootfs = place.join("rootfs");
    fs::create_dir(&rootfs).doing("mkdir", &rootfs)
}

/// Mounts the vdir so that no device in it works, for `users` from that number of the host on. This process's standard error is the directory that
/// was checked: what is mounted must be the same, wherever the path leads by now.
fn mount_root(vdir: &Path, rootfs: &Path, users: Option<u32>) -> Result<(), LifecycleError> {
    vhashify_sys::process::unshare_mounts().doing("unshare", rootfs)?;
    let root = Path::new("/");
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change(root, slave).doing("mount", root)?;
    let checked = rustix::fs::fstat(rustix::stdio::stderr()).doing("stat", vdir)?;
    if let Some(first) = users {
        make_place_in_memory()?;
        vhashify_sys::idmap::mount(vdir, rootfs, first, spec::USERS)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => io::Error::other(
                    "spaces/user needs a filesystem that can show its files under other numbers (ext4 \
                     and XFS since Linux 5.12, Btrfs since 5.15, tmpfs since 6.3), also for what is \
                     mounted below; move the guest there, or remove spaces/user",
                ),
                _ => error,
            })
            .doing("mount_setattr", vdir)?;
    } else {
        rustix::mount::mount_bind_recursive(vdir, rootfs).doing("mount", rootfs)?;
    }
    let found = rustix::fs::stat(rootfs).doing("stat", rootfs)?;
    if (found.st_dev, found.st_ino) != (checked.st_dev, checked.st_ino) {
        let moved = io::Error::other("it was moved meanwhile");
        return Err(moved).doing("mount", vdir);
    }
    let mounted = rustix::fs::statvfs(rootfs).doing("statvfs", rootfs)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::NODEV;
    for (has, keeps) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if mounted.contains(has) {
            flags |= keeps;
        }
    }
    rustix::mount::mount_remount(rootfs, flags, c"").doing("mount", rootfs)
}

/// Takes the guest's root and its terminal out of this process's mounts, so that their places can be
/// removed.
fn unmount(state: &StateDirectory) {
    let places = ["bundle/rootfs", "console"].map(|place| state.at(place));
    // Of the guest's root, too, nothing may be in use any more when the guest is said to have stopped.
    for place in places
        .iter()
        .map(PathBuf::as_path)
        .chain([Path::new(IN_MEMORY)])
    {
        // Where the monitor has a successor none is mounted; else it is the first two, or the last one if
        // the guest has users of its own.
        let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Watches a guest until it ends, and tidies it away. Arguments: state directory, guest.
#[must_use]
pub fn watch(arguments: &[std::ffi::OsString]) -> ExitCode {
    let [top, name] = arguments else {
        return ExitCode::FAILURE;
    };
    let state = StateDirectory::new(Path::new(top), &name.to_string_lossy());
    let watched = known(&state).and_then(|known| known.init.map(|init| (known, init)));
    let Some((running, init)) = watched else {
        return ExitCode::FAILURE;
    };
    if running.broker == Some(Process::this()) {
        begin_to_serve(&state, &running);
    }
    let ended = follow(&state, init);
    if known(&state).and_then(|known| known.init) != Some(init) {
        // Somebody tidied up before, and the guest may even run again.
        return ExitCode::SUCCESS;
    }
    unmount(&state);
    let is_stopping = state.at("stopping").exists();
    if state.tidy(&running, ended).is_err() {
        return ExitCode::FAILURE;
    }
    if ended.signal == Some(libc::SIGHUP) && !is_stopping {
        start_again(&running.config_dir, &state);
    }
    ExitCode::SUCCESS
}

/// Serves the calls of the guest beside all else. The socket is the standard output: see [`make`].
fn begin_to_serve(state: &StateDirectory, running: &Running) {
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3);
    let breaker = broker::breaker(state.name(), running);
    let (Ok(socket), Ok(breaker)) = (socket, breaker) else {
        // The listeners go with the socket, and calls fail from now on.
        tracing::error!("{} has no broker: its root directory is gone", state.name());
        return;
    };
    let running = running.clone();
    let attend = move || broker::attend(&UnixListener::from(socket), breaker, &running);
    if let Err(error) = thread::Builder::new().spawn(attend) {
        tracing::error!(%error, "{} has no broker", state.name());
    }
}

/// What the state directory says now.
fn known(state: &StateDirectory) -> Option<Running> {
    let text = fs::read(state.at("guest.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The guest called reboot(2): a restart ends its init with SIGHUP, a halt with SIGINT.
fn start_again(config_dir: &Path, state: &StateDirectory) {
    let mut command = Command::new(sealed::origin());
    command
        .arg0("vserver")
        .arg("--silent")
        .arg("--config-dir")
        .arg(config_dir)
        .arg("--state-dir")
        .arg(state.top())
        .args([state.name(), "start"])
        // It may be the broker's socket.
        .stdout(Stdio::null());
    drop(command.exec());
}

/// Copies the console into the log until init ends, and says how it did.
fn follow(state: &StateDirectory, init: Process) -> Ended {
    let mut console = Watched::open(state);
    let Some(handle) = init.open() else {
        // It was quicker than this process, whose child it may still be.
        console.drain();
        return how_it_ended(Pid::from_raw(init.pid).map(WaitId::Pid));
    };
    loop {
        let mut waited = vec![PollFd::new(&handle, PollFlags::IN)];
        let source = console.source();
        waited.extend(source.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let _ = poll(&mut waited, None);
        let has_ended = !waited[0].revents().is_empty();
        drop(waited);
        console.drain();
        if has_ended {
            return how_it_ended(Some(WaitId::PidFd(handle.as_fd())));
        }
    }
}

/// The exit status, which only the parent learns.
fn how_it_ended(init: Option<WaitId<'_>>) -> Ended {
    let seen = init.and_then(|init| waitid(init, WaitIdOptions::EXITED).ok().flatten());
    Ended {
        status: seen.as_ref().and_then(WaitIdStatus::exit_status),
        signal: seen.as_ref().and_then(WaitIdStatus::terminating_signal),
        at: now(),
    }
}
