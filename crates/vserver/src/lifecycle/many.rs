//! Many guests at once: in which order they start and stop, and which resources they use.

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
    /// Bytes of memory, page cache included, if its cgroup counts them.
    pub memory_bytes: Option<u64>,
    /// Nanoseconds of CPU time, if its cgroup counts them.
    pub cpu_nanoseconds: Option<u64>,
    /// Seconds since its start.
    pub uptime_seconds: u64,
    /// Its root directory.
    pub vdir: PathBuf,
}

/// The resources that each running guest uses, by context number.
///
/// # Errors
/// The state of a guest cannot be read or mended.
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

/// The order in which guests start: the guests of a group start at once, as soon as the group before runs.
///
/// `depends` has for each guest the guests that must run before it. These start, too, even where they are not
/// `wanted`.
///
/// # Errors
/// Guests depend on each other in a circle: their names, along it.
pub fn start_order(
    wanted: &BTreeSet<String>,
    depends: &BTreeMap<String, Vec<String>>,
) -> Result<Vec<Vec<String>>, Vec<String>> {
    let mut waiting: BTreeSet<String> = wanted.clone();
    let mut unvisited: Vec<String> = wanted.iter().cloned().collect();
    while let Some(name) = unvisited.pop() {
        for other in depends.get(&name).into_iter().flatten() {
            if waiting.insert(other.clone()) {
                unvisited.push(other.clone());
            }
        }
    }
    let mut groups = Vec::new();
    while !waiting.is_empty() {
        let must_wait = |name: &String| {
            let mut before = depends.get(name).into_iter().flatten();
            before.any(|other| waiting.contains(other))
        };
        let ready: Vec<String> = waiting
            .iter()
            .filter(|name| !must_wait(name))
            .cloned()
            .collect();
        if ready.is_empty() {
            return Err(circle(&waiting, depends));
        }
        for name in &ready {
            waiting.remove(name);
        }
        groups.push(ready);
    }
    Ok(groups)
}

/// A circle among guests that all wait for each other.
fn circle(waiting: &BTreeSet<String>, depends: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut path: Vec<String> = waiting.iter().take(1).cloned().collect();
    while let Some(last) = path.last() {
        let next = depends.get(last).into_iter().flatten();
        let Some(next) = next
            .into_iter()
            .find(|other| waiting.contains(*other))
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

    use super::start_order;

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
        start_order(&wanted, &depends)
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
