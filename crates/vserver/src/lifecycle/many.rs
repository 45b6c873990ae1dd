//! Many guests at once: the order in which they start and stop, and their use of resources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::observe::{GuestState, mend};
use super::state::now;
use super::{LifecycleError, StateDirectory};
use crate::context::cgroup;

/// The resources that one guest uses.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// Its context number.
    pub context: u32,
    /// Its name.
    pub name: String,
    /// How many processes it has.
    pub processes: usize,
    /// Bytes of memory, page cache included, where it is counted.
    pub memory_bytes: Option<u64>,
    /// Nanoseconds of processors' time, where it is counted.
    pub cpu_nanoseconds: Option<u64>,
    /// Seconds since its start.
    pub uptime_seconds: u64,
    /// Its root directory.
    pub vdir: PathBuf,
}

/// The use of every running guest, by context number.
///
/// # Errors
/// The state of one cannot be read or mended.
pub fn usage(states: &[StateDirectory]) -> Result<Vec<Usage>, LifecycleError> {
    let mut all = Vec::new();
    for state in states {
        let GuestState::Running(running, _) = mend(state)? else {
            continue;
        };
        let context = running.context;
        let nanoseconds = cgroup::counter(context, &["cpuacct.usage"]);
        let microseconds = || cgroup::counter(context, &["cpu.stat"]);
        all.push(Usage {
            context,
            name: state.name().to_owned(),
            processes: cgroup::processes(context).len(),
            memory_bytes: cgroup::counter(context, &["memory.usage_in_bytes", "memory.current"]),
            cpu_nanoseconds: nanoseconds.or_else(|| microseconds().map(|time| time * 1000)),
            uptime_seconds: now().saturating_sub(running.since),
            vdir: running.vdir,
        });
    }
    all.sort_by_key(|usage| usage.context);
    Ok(all)
}

/// The order in which guests are started: each group may start at once when the one before runs.
///
/// `depends` names, for each guest, those that must run before it; a guest that only another one
/// names is started, too, if it is in `depends`.
///
/// # Errors
/// A circle, as the names along it.
pub fn order(
    wanted: &BTreeSet<String>,
    depends: &BTreeMap<String, Vec<String>>,
) -> Result<Vec<Vec<String>>, Vec<String>> {
    let mut open: BTreeSet<String> = wanted.clone();
    let mut unseen: Vec<String> = wanted.iter().cloned().collect();
    while let Some(name) = unseen.pop() {
        for other in depends.get(&name).into_iter().flatten() {
            if open.insert(other.clone()) {
                unseen.push(other.clone());
            }
        }
    }
    let mut groups = Vec::new();
    while !open.is_empty() {
        let waits = |name: &String| {
            let mut before = depends.get(name).into_iter().flatten();
            before.any(|other| open.contains(other))
        };
        let ready: Vec<String> = open.iter().filter(|name| !waits(name)).cloned().collect();
        if ready.is_empty() {
            return Err(circle(&open, depends));
        }
        for name in &ready {
            open.remove(name);
        }
        groups.push(ready);
    }
    Ok(groups)
}

/// One circle among guests that all wait for each other.
fn circle(open: &BTreeSet<String>, depends: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut path: Vec<String> = open.iter().take(1).cloned().collect();
    while let Some(last) = path.last() {
        let next = depends.get(last).into_iter().flatten();
        let Some(next) = next
            .into_iter()
            .find(|other| open.contains(*other))
            .cloned()
        else {
            break;
        };
        if let Some(begin) = path.iter().position(|name| *name == next) {
            path.drain(..begin);
            path.push(next);
            break;
        }
        path.push(next);
    }
    path
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::order;

    fn ordered(
        wanted: &[&str],
        depends: &[(&str, &[&str])],
    ) -> Result<Vec<Vec<String>>, Vec<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let depends: BTreeMap<String, Vec<String>> = depends
            .iter()
            .map(|(name, before)| ((*name).to_owned(), owned(before)))
            .collect();
        order(&wanted, &depends)
    }

    #[test]
    fn a_guest_starts_after_those_that_it_depends_on() {
        let depends: &[(&str, &[&str])] = &[("web", &["db", "mail"]), ("mail", &["db"])];
        assert_eq!(
            ordered(&["web"], depends).unwrap(),
            [["db"], ["mail"], ["web"]]
        );
        assert_eq!(ordered(&["a", "b"], depends).unwrap(), [["a", "b"]]);
    }

    #[test]
    fn a_circle_is_named() {
        let depends: &[(&str, &[&str])] = &[("a", &["b"]), ("b", &["c"]), ("c", &["b"])];
        assert_eq!(ordered(&["a"], depends).unwrap_err(), ["b", "c", "b"]);
        assert_eq!(ordered(&["x"], &[("x", &["x"])]).unwrap_err(), ["x", "x"]);
    }
}
