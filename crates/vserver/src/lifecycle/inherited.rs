//! What the processes of a guest would inherit of whoever typed the command, and have of their own instead: the umask
//! and the limits of each process.

use std::io;

use libcontainer::oci_spec::runtime::{PosixRlimit, PosixRlimitType, Spec};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vhashify_sys::procfs::{self, LimitValue};

/// The umask of a guest's processes, unless the guest has another.
pub const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// The process that the kernel gave its limits to, where they depend on the machine's memory.
const FIRST_OF_HOST: u32 = 1;

/// What the kernel gives to its first process, and systemd's limit of open files, which is what services expect.
///
/// `None` is no limit. `RLIMIT_NPROC` and `RLIMIT_SIGPENDING` are not among them: see [`of_this_machine`].
const USUAL: [(Resource, Option<u64>, Option<u64>); 14] = [
    (Resource::As, None, None),
    (Resource::Core, Some(0), None),
    (Resource::Cpu, None, None),
    (Resource::Data, None, None),
    (Resource::Fsize, None, None),
    (Resource::Locks, None, None),
    (Resource::Memlock, Some(8 << 20), Some(8 << 20)),
    (Resource::Msgqueue, Some(819_200), Some(819_200)),
    (Resource::Nice, Some(0), Some(0)),
    (Resource::Nofile, Some(1024), Some(524_288)),
    (Resource::Rss, None, None),
    (Resource::Rtprio, Some(0), Some(0)),
    (Resource::Rttime, None, None),
    (Resource::Stack, Some(8 << 20), None),
];

/// Gives this process, and what it becomes, the limits and the umask that a guest has unless it is configured.
///
/// Of a limit that this process may not raise its hard part stays.
pub fn forget_caller() {
    rustix::process::umask(UMASK);
    for (resource, current, maximum) in USUAL.into_iter().chain(of_this_machine()) {
        let wanted = Rlimit { current, maximum };
        if setrlimit(resource, wanted).is_err() {
            let maximum = least(getrlimit(resource).maximum, maximum);
            let current = least(current, maximum);
            // A process may always lower its own.
            let _ = setrlimit(resource, Rlimit { current, maximum });
        }
    }
}

/// Those that the kernel computes from the size of the memory.
fn of_this_machine() -> Vec<(Resource, Option<u64>, Option<u64>)> {
    let Ok(limits) = procfs::limits(FIRST_OF_HOST) else {
        return Vec::new();
    };
    let number = |value| match value {
        LimitValue::Unlimited => None,
        LimitValue::Value(number) => Some(number),
    };
    [
        (Resource::Nproc, limits.max_processes),
        (Resource::Sigpending, limits.max_pending_signals),
    ]
    .map(|(resource, limit)| (resource, number(limit.soft_limit), number(limit.hard_limit)))
    .to_vec()
}

/// Raises the hard part of each limit to what the specification asks for, while this process may: one that is in the
/// guest's user namespace may only lower it.
///
/// # Errors
/// The call's.
pub fn make_room(spec: &Spec) -> io::Result<()> {
    for limit in configured(spec) {
        let resource = resource(limit.typ());
        let Rlimit { current, maximum } = getrlimit(resource);
        let hard = finite(limit.hard());
        if least(maximum, hard) != hard {
            let maximum = hard;
            setrlimit(resource, Rlimit { current, maximum })?;
        }
    }
    Ok(())
}

/// Sets the limits of the specification.
///
/// # Errors
/// The call's.
pub fn set_limits(spec: &Spec) -> io::Result<()> {
    for limit in configured(spec) {
        let to = Rlimit {
            current: finite(limit.soft()),
            maximum: finite(limit.hard()),
        };
        setrlimit(resource(limit.typ()), to)?;
    }
    Ok(())
}

fn configured(spec: &Spec) -> impl Iterator<Item = &PosixRlimit> {
    let process = spec.process().as_ref();
    let limits = process.and_then(|process| process.rlimits().as_ref());
    limits.into_iter().flatten()
}

fn finite(limit: u64) -> Option<u64> {
    (limit != u64::MAX).then_some(limit)
}

/// The lesser of two limits; `None` is no limit, and above every number.
fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn resource(kind: PosixRlimitType) -> Resource {
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
