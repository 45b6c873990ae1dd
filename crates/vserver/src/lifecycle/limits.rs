//! Changes the limits of a guest that runs.
//!
//! Limits of the guest are written into its cgroup. A limit of each process is set for all of them (`prlimit`), and
//! in the guest's specification, from which a command that enters later takes it. The configuration stays as it is:
//! the next start begins with its limits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};
use thiserror::Error;
use vhashify_config::TokenBucket;
use vhashify_sys::call_error::reason;
use vhashify_sys::pidfd::Process;
use vhashify_sys::procfs::{self, LimitValue, Limits};

use super::error::{Doing, Reason};
use super::observe::{GuestState, mend, mend_running};
use super::state::known;
use super::{LifecycleError, Running, StateDirectory};
use crate::context::cgroup;
use crate::context::limits::Limit;

/// Which part of a limit of each process is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The limit that the kernel enforces.
    Soft,
    /// How far a process may raise it; a soft one that is above is lowered to it.
    Hard,
    /// Both.
    Both,
}

/// A limit that each process has for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimit {
    /// One of [`RESOURCES`].
    pub resource: &'static ProcessResource,
    /// Which part.
    pub part: Part,
    /// The value, in the unit of setrlimit(2); `None` is no limit.
    pub value: Option<u64>,
}

/// A resource of a process that can be limited.
#[derive(Debug)]
pub struct ProcessResource {
    /// The name that `rlimits` has for it.
    pub name: &'static str,
    kind: Resource,
    /// Its limit among those of a process.
    of: fn(&Limits) -> procfs::Limit,
}

impl PartialEq for ProcessResource {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for ProcessResource {}

const fn resource(
    name: &'static str,
    kind: Resource,
    of: fn(&Limits) -> procfs::Limit,
) -> ProcessResource {
    ProcessResource { name, kind, of }
}

/// Why a limit of a process cannot be set.
#[derive(Debug, Error)]
enum ProcessLimitError {
    #[error("{resource} of the process {pid} cannot be set: {}", reason(source))]
    Set {
        resource: &'static str,
        pid: i32,
        source: io::Error,
    },
    #[error("the soft limit of {resource} would be above the hard one; raise that first, with -H")]
    SoftAboveHard { resource: &'static str },
}

/// All of them that mean something for a single process.
pub const RESOURCES: [ProcessResource; 14] = [
    resource("as", Resource::As, |limits| limits.max_address_space),
    resource("core", Resource::Core, |limits| limits.max_core_file_size),
    resource("cpu", Resource::Cpu, |limits| limits.max_cpu_time),
    resource("data", Resource::Data, |limits| limits.max_data_size),
    resource("fsize", Resource::Fsize, |limits| limits.max_file_size),
    resource("locks", Resource::Locks, |limits| limits.max_file_locks),
    resource("memlock", Resource::Memlock, |limits| {
        limits.max_locked_memory
    }),
    resource("msgqueue", Resource::Msgqueue, |limits| {
        limits.max_msgqueue_size
    }),
    resource("nice", Resource::Nice, |limits| limits.max_nice_priority),
    resource("nofile", Resource::Nofile, |limits| limits.max_open_files),
    resource("rtprio", Resource::Rtprio, |limits| {
        limits.max_realtime_priority
    }),
    resource("rttime", Resource::Rttime, |limits| {
        limits.max_realtime_timeout
    }),
    resource("sigpending", Resource::Sigpending, |limits| {
        limits.max_pending_signals
    }),
    resource("stack", Resource::Stack, |limits| limits.max_stack_size),
];

/// The running guest of that name or context number.
///
/// # Errors
/// None runs, or its state cannot be read.
pub fn find(state_dir: &Path, guest: &str) -> Result<(StateDirectory, Running), LifecycleError> {
    for state in known(state_dir) {
        if let GuestState::Running(running, _) = mend(&state)?
            && (state.name() == guest || running.context.to_string() == guest)
        {
            return Ok((state, running));
        }
    }
    let name = guest.to_owned();
    Err(LifecycleError::NotRunning { name })
}

/// Changes limits of a guest: those of its cgroup, then those of each process.
///
/// # Errors
/// It does not run any more; this host cannot do one of them, or refuses the value. Those before it
/// are changed then.
pub fn change(
    state: &StateDirectory,
    limits: &[Limit],
    of_processes: &[ProcessLimit],
) -> Result<(), LifecycleError> {
    // The lock keeps the guest from being stopped meanwhile, and its number from becoming another guest's.
    let _lock = state.lock()?;
    let (running, init) = mend_running(state)?;
    let refused = |reason: Reason| LifecycleError::Refused {
        name: state.name().to_owned(),
        reason,
    };
    for limit in limits {
        cgroup::set_limit(running.context, limit).map_err(|error| refused(error.into()))?;
    }
    for limit in of_processes {
        limit_processes(running.context, *limit).map_err(|error| refused(error.into()))?;
    }
    if of_processes.is_empty() {
        return Ok(());
    }
    remember(state, init, of_processes)
}

/// Sets a limit of all processes, again and again until a pass finds no process without it: a process that a pass
/// missed may be the child of one that did not have the limit yet.
fn limit_processes(context: u32, limit: ProcessLimit) -> Result<(), ProcessLimitError> {
    loop {
        let mut is_changed = false;
        for pid in cgroup::processes(context) {
            // A process that has ended meanwhile needs no limit.
            let Some(process) = Process::find(pid) else {
                continue;
            };
            let Some(before) = of_process(pid, limit.resource) else {
                continue;
            };
            let wanted = changed(before, limit)?;
            if before == wanted || !process.is_alive() {
                continue;
            }
            let to = Rlimit {
                current: wanted.0,
                maximum: wanted.1,
            };
            match prlimit(Pid::from_raw(pid), limit.resource.kind, to) {
                Ok(_) => is_changed = true,
                Err(rustix::io::Errno::SRCH) => {}
                Err(error) => {
                    return Err(ProcessLimitError::Set {
                        resource: limit.resource.name,
                        pid,
                        source: error.into(),
                    });
                }
            }
        }
        if !is_changed {
            return Ok(());
        }
    }
}

type SoftAndHard = (Option<u64>, Option<u64>);

/// What a limit becomes. `None` is no limit, and above every number.
fn changed(
    (soft, hard): SoftAndHard,
    limit: ProcessLimit,
) -> Result<SoftAndHard, ProcessLimitError> {
    let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let value = limit.value;
    match limit.part {
        Part::Both => Ok((value, value)),
        Part::Hard => Ok((least(soft, value), value)),
        Part::Soft if least(value, hard) == value => Ok((value, hard)),
        Part::Soft => Err(ProcessLimitError::SoftAboveHard {
            resource: limit.resource.name,
        }),
    }
}

/// The limits of one process; `None` when it has ended.
#[must_use]
pub fn of_process(pid: i32, resource: &ProcessResource) -> Option<SoftAndHard> {
    let limit = (resource.of)(&procfs::limits(pid).ok()?);
    let number = |value| match value {
        LimitValue::Unlimited => None,
        LimitValue::Value(number) => Some(number),
    };
    Some((number(limit.soft_limit), number(limit.hard_limit)))
}

/// Writes init's limits into the specification, for commands that enter the guest later.
fn remember(
    state: &StateDirectory,
    init: Process,
    changed: &[ProcessLimit],
) -> Result<(), LifecycleError> {
    let path = state.at("bundle/config.json");
    let text = fs::read(&path).doing("read", &path)?;
    let Ok(mut spec) = serde_json::from_slice::<Value>(&text) else {
        return Ok(());
    };
    let Some(known) = spec["process"]["rlimits"].as_array_mut() else {
        return Ok(());
    };
    for limit in changed {
        let Some((soft, hard)) = of_process(init.pid, limit.resource) else {
            continue;
        };
        let kind = format!("RLIMIT_{}", limit.resource.name.to_uppercase());
        known.retain(|entry| entry["type"] != json!(kind));
        let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        known.push(json!({ "type": kind, "soft": number(soft), "hard": number(hard) }));
    }
    replace(&path, &spec)
}

/// The token bucket that a guest had last: of its start, or of the last change.
#[must_use]
pub fn bucket(state: &StateDirectory) -> Option<TokenBucket> {
    let text = fs::read(state.at(BUCKET)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Keeps it as long as the guest runs, so that a later change of one value leaves the others.
///
/// # Errors
/// The state directory cannot be written.
pub fn keep_bucket(state: &StateDirectory, bucket: &TokenBucket) -> Result<(), LifecycleError> {
    replace(&state.at(BUCKET), &json!(bucket))
}

const BUCKET: &str = "bundle/bucket.json";

/// Replaces a file, whole or not at all.
fn replace(path: &PathBuf, value: &Value) -> Result<(), LifecycleError> {
    let new = path.with_extension("new");
    fs::write(&new, value.to_string()).doing("write", &new)?;
    fs::rename(&new, path).doing("rename", path)
}

#[cfg(test)]
mod tests {
    use super::{Part, ProcessLimit, RESOURCES, changed, of_process};

    #[test]
    fn each_limit_is_read_from_the_row_that_prlimit_sets() {
        let own = rustix::process::getpid();
        for resource in &RESOURCES {
            let limit = rustix::process::getrlimit(resource.kind);
            let read = of_process(own.as_raw_pid(), resource);
            assert_eq!(
                read,
                Some((limit.current, limit.maximum)),
                "{}",
                resource.name
            );
        }
    }

    #[test]
    fn a_part_of_a_limit_leaves_the_other_unless_it_must_give_way() {
        let limit = |part, value| ProcessLimit {
            resource: &RESOURCES[0],
            part,
            value,
        };
        let before = (Some(10), Some(20));
        for (part, value, after) in [
            (Part::Both, Some(5), (Some(5), Some(5))),
            (Part::Both, None, (None, None)),
            (Part::Hard, Some(30), (Some(10), Some(30))),
            (Part::Hard, Some(5), (Some(5), Some(5))),
            (Part::Hard, None, (Some(10), None)),
            (Part::Soft, Some(15), (Some(15), Some(20))),
            (Part::Soft, Some(20), (Some(20), Some(20))),
        ] {
            assert_eq!(changed(before, limit(part, value)).unwrap(), after);
        }
        assert!(changed(before, limit(Part::Soft, Some(21))).is_err());
        assert!(changed(before, limit(Part::Soft, None)).is_err());
        let none = changed((None, None), limit(Part::Soft, None));
        assert_eq!(none.unwrap(), (None, None));
    }
}
