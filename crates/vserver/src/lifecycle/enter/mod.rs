//! Runs a command in a guest that runs.
//!
//! The order is what keeps the host safe. This process joins the guest's cgroups and namespaces,
//! takes the guest's filter of system calls and drops to its capabilities while it is still in the
//! host's PID namespace, where no process of the guest sees it. Only then it forks: the child, which
//! the guest's root may trace from its first instruction on, has nothing that the guest has not.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};

use libcontainer::oci_spec::runtime::{LinuxNamespaceType, PosixRlimitType, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Gid, PidfdFlags, Resource, Rlimit, Uid, pidfd_open, setrlimit};
use rustix::thread::{
    CapabilitySets, ThreadNameSpaceType, move_into_thread_name_spaces,
    remove_capability_from_bounding_set, set_capabilities,
};
use vhashify_config::capabilities;
use vhashify_sys::process::{in_own_session, next_signal, signals_as_descriptor};

use super::terminal::Terminal;
use super::{LifecycleError, StateDirectory, broker, sealed};
use crate::context::cgroup;
use crate::context::filter::load_filter;

/// What is run in a guest.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The program and its arguments; none for the guest's shell.
    pub command: Vec<OsString>,
    /// A user of the guest, by name or number, in place of its root.
    pub user: Option<String>,
    /// What `shell` of the configuration says.
    pub shell: Option<String>,
}

/// Signals that are passed on to the command.
const PASSED_ON: [i32; 6] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// Runs it, with a terminal of the guest's where this process has one, and gives its exit status:
/// 128 and more when a signal ended it.
///
/// # Errors
/// The guest does not run, or cannot be entered. From then on this process is of no more use.
pub fn enter(state: &StateDirectory, entry: &Entry) -> Result<u8, LifecycleError> {
    let (running, init) = state.running()?;
    let failed = |what: &str, error: &dyn std::fmt::Display| LifecycleError::Enter {
        name: state.name().to_owned(),
        reason: format!("{what}: {error}"),
    };
    sealed::ensure().map_err(|error| failed("this program cannot be sealed", &error))?;
    let spec = Spec::load(state.at("bundle/config.json"))
        .map_err(|error| failed("its specification cannot be read", &error))?;
    let handle = init.open().ok_or_else(|| LifecycleError::NotRunning {
        name: state.name().to_owned(),
    })?;
    // Before its mounts hide the socket.
    let broker = running.broker.map(|_| broker::connect(state)).transpose();
    let broker = broker.map_err(|error| failed("its broker is dead, restart the guest", &error))?;
    cgroup::join(running.context).map_err(|error| failed("its cgroup", &error))?;
    let mut namespaces = namespaces();
    let has_own_users = has_own_users(&spec);
    namespaces.set(ThreadNameSpaceType::USER, has_own_users);
    move_into_thread_name_spaces(handle.as_fd(), namespaces)
        .map_err(|error| failed("its namespaces", &error))?;
    drop(handle);
    if has_own_users {
        // The host's root is nobody there; what begins here is the guest's.
        become_root().map_err(|error| failed("its root", &error))?;
    }
    let account = entry
        .user
        .as_deref()
        .map(Account::find)
        .transpose()
        .map_err(|reason| failed("user", &reason))?
        .unwrap_or_default();
    confine(&spec, &account, broker.as_ref()).map_err(|error| failed("its limits", &error))?;
    drop(broker);

    let mut command = command(&spec, entry, &account);
    let terminal = if io::stdin().is_terminal() && io::stdout().is_terminal() {
        let made = Terminal::open(&mut command);
        Some(made.map_err(|error| failed("its terminal", &error))?)
    } else {
        None
    };
    in_own_session(&mut command, terminal.is_some());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Err(not_run(state, &command, &error)),
    };
    // The guest's end of the terminal must be closed here, to see when it is closed there.
    drop(command);
    attend(&mut child, terminal).map_err(|error| failed("waiting", &error))
}

fn namespaces() -> ThreadNameSpaceType {
    ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::CONTROL_GROUP
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::PROCESS_ID
}

/// Whether the guest has a user namespace.
fn has_own_users(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let mut listed = linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten();
    listed.any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

fn become_root() -> rustix::io::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// Takes away from this process what the guest has not.
fn confine(
    spec: &Spec,
    account: &Account,
    broker: Option<&UnixStream>,
) -> Result<(), Box<dyn std::error::Error>> {
    rustix::process::chdir("/")?;
    super::process_attributes::take(spec)?;
    let process = spec.process().as_ref().ok_or("it has no process")?;
    for limit in process.rlimits().iter().flatten() {
        let to = Rlimit {
            current: finite(limit.soft()),
            maximum: finite(limit.hard()),
        };
        setrlimit(resource(limit.typ()), to)?;
    }
    if let Some(mask) = process.user().umask() {
        rustix::process::umask(rustix::fs::Mode::from_bits_truncate(mask));
    }
    rustix::thread::set_thread_groups(&account.groups)?;
    if let Some(filter) = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref())
    {
        let listener = load_filter(filter)?;
        if let (Some(listener), Some(broker)) = (listener, broker) {
            broker::hand_over(broker, listener.as_fd())?;
        }
    }
    let known = process
        .capabilities()
        .as_ref()
        .and_then(|all| all.bounding().as_ref());
    let names: Vec<String> = known
        .into_iter()
        .flatten()
        .map(|capability| format!("CAP_{}", capability.to_string().trim_start_matches("CAP_")))
        .collect();
    let kept = capabilities::from_names(names.iter().map(String::as_str));
    for capability in capabilities::all() {
        if !kept.contains(capability) {
            match remove_capability_from_bounding_set(capability) {
                // A kernel that does not know it does not have it.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    Ok(())
}

fn finite(limit: u64) -> Option<u64> {
    (limit != u64::MAX).then_some(limit)
}

pub(super) fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitStack => Resource::Stack,
    }
}

fn command(spec: &Spec, entry: &Entry, account: &Account) -> Command {
    let shell = || -> OsString {
        let usual = ["/bin/bash", "/bin/sh"];
        let found = usual
            .iter()
            .find(|path| std::path::Path::new(path).exists());
        let shell = entry.shell.clone();
        shell
            .unwrap_or_else(|| found.unwrap_or(&"/bin/sh").to_string())
            .into()
    };
    let (program, arguments) = match entry.command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (shell(), &[][..]),
    };
    let mut command = Command::new(&program);
    if entry.command.is_empty() {
        // As login(1) tells a shell that it is the first.
        let name = std::path::Path::new(&program)
            .file_name()
            .unwrap_or_default();
        let mut first = OsString::from("-");
        first.push(name);
        command.arg0(first);
    }
    command.args(arguments).env_clear();
    let variables = spec
        .process()
        .as_ref()
        .and_then(|process| process.env().as_ref());
    for variable in variables.into_iter().flatten() {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    if let Some(home) = &account.home {
        command.env("HOME", home);
    }
    if let (true, Some(kind)) = (io::stdin().is_terminal(), std::env::var_os("TERM")) {
        command.env("TERM", kind);
    }
    if let Some((uid, gid)) = account.ids {
        command.uid(uid).gid(gid);
    }
    command
}

/// Says why the program did not run, and with what status a shell would exit.
fn not_run(state: &StateDirectory, command: &Command, error: &io::Error) -> LifecycleError {
    let (reason, status) = match error.kind() {
        io::ErrorKind::NotFound => ("there is no such program in the guest".to_owned(), 127),
        _ => (vhashify_sys::call_error::reason(error), 126),
    };
    LifecycleError::NotRun {
        name: state.name().to_owned(),
        program: command.get_program().into(),
        reason,
        status,
    }
}

/// Waits for the command, passing signals on, and what is typed and shown if it has a terminal.
fn attend(child: &mut Child, mut terminal: Option<Terminal>) -> io::Result<u8> {
    let mut watched = PASSED_ON.to_vec();
    watched.push(libc::SIGWINCH);
    let signals = signals_as_descriptor(&watched)?;
    let pid = rustix::process::Pid::from_child(child);
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    if let Some(terminal) = &mut terminal {
        terminal.begin()?;
    }
    loop {
        let mut waited = vec![
            PollFd::new(&handle, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
        ];
        if let Some(terminal) = &terminal {
            terminal.wait_for(&mut waited);
        }
        match poll(&mut waited, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let has_ended = !waited[0].revents().is_empty();
        drop(waited);
        while let Some(signal) = next_signal(&signals) {
            match &terminal {
                Some(terminal) if signal == libc::SIGWINCH => terminal.follow_size(),
                _ => {
                    // It may have ended meanwhile.
                    drop(vhashify_sys::pidfd::send_signal(&handle, signal));
                }
            }
        }
        if let Some(terminal) = &mut terminal {
            terminal.relay(has_ended)?;
        }
        if has_ended {
            let ended = child.wait()?;
            let code = ended.code().or(ended.signal().map(|signal| 128 + signal));
            return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        }
    }
}

/// A user of the guest.
#[derive(Debug, Default)]
struct Account {
    ids: Option<(u32, u32)>,
    groups: Vec<Gid>,
    home: Option<String>,
}

impl Account {
    /// Looks in the guest's own files, this process being in its mount namespace already.
    fn find(user: &str) -> Result<Self, String> {
        let passwd = read_plain("/etc/passwd").map_err(|error| format!("/etc/passwd: {error}"))?;
        let group = read_plain("/etc/group").unwrap_or_default();
        Self::parse(user, &passwd, &group)
            .ok_or_else(|| format!("{user:?} is not in the guest's /etc/passwd"))
    }

    fn parse(user: &str, passwd: &str, group: &str) -> Option<Self> {
        let line = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() >= 6 && (fields[0] == user || fields[2] == user));
        let (name, uid, gid, home) = match line {
            Some(fields) => (
                fields[0].to_owned(),
                fields[2].parse().ok()?,
                fields[3].parse().ok()?,
                Some(fields[5].to_owned()),
            ),
            // A number needs no entry.
            None => (
                String::new(),
                user.parse::<u32>().ok()?,
                user.parse().ok()?,
                None,
            ),
        };
        // The kernel takes it for "leave as it is".
        if uid == u32::MAX || gid == u32::MAX {
            return None;
        }
        let mut groups = HashSet::from([gid]);
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let is_member = |fields: &[&str]| fields[3].split(',').any(|member| member == name);
            if fields.len() == 4 && !name.is_empty() && is_member(&fields) {
                groups.extend(fields[2].parse::<u32>());
            }
        }
        groups.remove(&u32::MAX);
        Some(Self {
            ids: Some((uid, gid)),
            groups: groups.into_iter().map(Gid::from_raw).collect(),
            home,
        })
    }
}

/// A plain file of at most a mebibyte: nothing that could block, or fill the memory.
fn read_plain(path: &str) -> io::Result<String> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn a_user_is_found_by_name_or_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:w:/var/www:/bin/sh\nbad\n";
        let group = "adm:x:4:www,other\nwww:x:34:\nbroken:x\n";
        let www = Account::parse("www", passwd, group).unwrap();
        assert_eq!(www.ids, Some((33, 34)));
        assert_eq!(www.home.as_deref(), Some("/var/www"));
        let mut groups: Vec<u32> = www.groups.iter().map(|gid| gid.as_raw()).collect();
        groups.sort_unstable();
        assert_eq!(groups, [4, 34]);
        assert_eq!(
            Account::parse("33", passwd, group).unwrap().ids,
            Some((33, 34))
        );
        assert_eq!(
            Account::parse("99", passwd, group).unwrap().ids,
            Some((99, 99))
        );
        assert!(Account::parse("nobody", passwd, group).is_none());
        assert!(Account::parse("4294967295", passwd, group).is_none());
    }
}
