//! Changes the limits of a running guest.
//!
//! A limit of the guest goes into its cgroup. A limit of each process is set for all its processes (`prlimit(2)`) and
//! in its specification, where a command that enters later finds it. The configuration stays as it is, and the next
//! start takes its limits from there.

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
use super::state::recorded_guests;
use super::{LifecycleError, Running, StateDirectory};
use crate::context::cgroup;
use crate::context::limits::Limit;

/// Which part of a process limit changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The limit that the kernel enforces.
    Soft,
    /// How far a process may raise the soft limit. A soft limit above it is lowered.
    Hard,
    /// Both.
    Both,
}

/// A limit of each process, as setrlimit(2) sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessLimit {
    /// One of [`RESOURCES`].
    pub resource: &'static ProcessResource,
    /// Which part.
    pub part: Part,
    /// The value, in the unit of setrlimit(2); `None` is no limit.
    pub value: Option<u64>,
}

/// A resource that setrlimit(2) limits.
#[derive(Debug)]
pub struct ProcessResource {
    /// Its name in `rlimits`.
    pub name: &'static str,
    kind: Resource,
    /// Finds its limit in `/proc/PID/limits`.
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

/// All resources but `nproc` and `rss`, which mean nothing for a single process.
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

/// The running guest with this name or context number.
///
/// # Errors
/// No such guest runs, or its state cannot be read.
pub fn find(state_dir: &Path, guest: &str) -> Result<(StateDirectory, Running), LifecycleError> {
    for state in recorded_guests(state_dir) {
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
/// The guest does not run any more, or the kernel does not have a limit or refuses its value. The limits before
/// that one are changed then.
pub fn change(
    state: &StateDirectory,
    limits: &[Limit],
    of_processes: &[ProcessLimit],
) -> Result<(), LifecycleError> {
    // With the lock, no command stops the guest meanwhile, so its context number stays its own.
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
    write_into_specification(state, init, of_processes)
}

/// Sets a limit for all processes, in passes until one finds no process without it: a process without the limit may
/// have a child that the pass misses.
fn limit_processes(context: u32, limit: ProcessLimit) -> Result<(), ProcessLimitError> {
    loop {
        let mut is_changed = false;
        for pid in cgroup::processes(context) {
            // A process that ended meanwhile needs no limit.
            let Some(process) = Process::find(pid) else {
                continue;
            };
            let Some(before) = limit_of_process(pid, limit.resource) else {
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

/// The soft and the hard limit after a change. `None` is no limit.
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

/// The soft and the hard limit of a process; `None` when it has ended.
#[must_use]
pub fn limit_of_process(pid: i32, resource: &ProcessResource) -> Option<SoftAndHard> {
    let limit = (resource.of)(&procfs::limits(pid).ok()?);
    let number = |value| match value {
        LimitValue::Unlimited => None,
        LimitValue::Value(number) => Some(number),
    };
    Some((number(limit.soft_limit), number(limit.hard_limit)))
}

/// Writes init's limits into the specification, for commands that enter the guest later.
fn write_into_specification(
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
        let Some((soft, hard)) = limit_of_process(init.pid, limit.resource) else {
            continue;
        };
        let kind = format!("RLIMIT_{}", limit.resource.name.to_uppercase());
        known.retain(|entry| entry["type"] != json!(kind));
        let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        known.push(json!({ "type": kind, "soft": number(soft), "hard": number(hard) }));
    }
    replace(&path, &spec)
}

/// The token bucket of a running guest since its start or the last change.
#[must_use]
pub fn read_bucket(state: &StateDirectory) -> Option<TokenBucket> {
    let text = fs::read(state.at(BUCKET)).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Records it while the guest runs, so that a later change of one value keeps the others.
///
/// # Errors
/// The state directory cannot be written.
pub fn write_bucket(state: &StateDirectory, bucket: &TokenBucket) -> Result<(), LifecycleError> {
    replace(&state.at(BUCKET), &json!(bucket))
}

const BUCKET: &str = "bundle/bucket.json";

/// Replaces a file atomically.
fn replace(path: &PathBuf, value: &Value) -> Result<(), LifecycleError> {
    let new = path.with_extension("new");
    fs::write(&new, value.to_string()).doing("write", &new)?;
    fs::rename(&new, path).doing("rename", path)
}

#[cfg(test)]
mod tests {
    use super::{Part, ProcessLimit, RESOURCES, changed, limit_of_process};

    #[test]
    fn each_limit_is_read_from_the_row_that_prlimit_sets() {
        let own = rustix::process::getpid();
        for resource in &RESOURCES {
            let limit = rustix::process::getrlimit(resource.kind);
            let read = limit_of_process(own.as_raw_pid(), resource);
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
