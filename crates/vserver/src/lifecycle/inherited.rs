//! Sets umask, process limits and all else that a guest's processes would inherit of the caller.

use std::io;

use libcontainer::oci_spec::runtime::{PosixRlimit, PosixRlimitType, Spec};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vhashify_sys::procfs::{self, LimitValue};

/// The umask of a guest's processes, unless the configuration has another.
pub const UMASK: Mode = Mode::WGRP.union(Mode::WOTH);

/// Process 1 of the host: it has the limits that the kernel computed from the size of the memory.
const HOST_INIT: u32 = 1;

/// The kernel's limits for its first process (`INIT_RLIMITS`), with systemd's limit of open files, which services
/// expect. `None` is no limit. [`limits_by_memory`] has `RLIMIT_NPROC` and `RLIMIT_SIGPENDING`.
const DEFAULT_LIMITS: [(Resource, Option<u64>, Option<u64>); 14] = [
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

/// Replaces the caller's limits, umask, scheduling, signals and the like, for this process and its children, by the defaults
/// of a guest.
///
/// A hard limit that this process may not raise stays as it is.
pub fn forget_caller() {
    vhashify_sys::process::restore_signals();
    vhashify_sys::process::be_as_usual();
    rustix::process::umask(UMASK);
    for (resource, current, maximum) in DEFAULT_LIMITS.into_iter().chain(limits_by_memory()) {
        let wanted = Rlimit { current, maximum };
        if setrlimit(resource, wanted).is_err() {
            let maximum = least(getrlimit(resource).maximum, maximum);
            let current = least(current, maximum);
            // A process may always lower its own limits.
            let _ = setrlimit(resource, Rlimit { current, maximum });
        }
    }
}

/// The limits that the kernel computes from the size of the memory.
fn limits_by_memory() -> Vec<(Resource, Option<u64>, Option<u64>)> {
    let Ok(limits) = procfs::limits(HOST_INIT) else {
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

/// Raises hard limits to those of the specification. Must be called before this process joins the guest's user
/// namespace, in which it may only lower them.
///
/// # Errors
/// The call's.
pub fn raise_hard_limits(spec: &Spec) -> io::Result<()> {
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

/// The lower of two limits. `None` is no limit.
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
