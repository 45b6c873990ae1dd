//! Where a guest's processes are counted and limited: `vserver/CONTEXT` in every hierarchy that the
//! host has, of either version.
//!
//! ```text
//! version 1, each controller    vserver/CONTEXT            processes and limits
//! version 2                     vserver/CONTEXT            limits; out of the guest's reach
//!                               vserver/CONTEXT/guest      process 1 and what it starts: what the guest
//!                                                          sees as the root, and may divide
//!                               vserver/CONTEXT/entered    what `exec` and `enter` run
//! ```
//!
//! `entered` stands beside `guest`, since the kernel lets no process into the root of a tree that the guest
//! (systemd) divides. A host that has both versions uses version 1 for limits, and version 2 for a tree
//! that the guest may divide.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vhashify_sys::call_error::reason;
use vhashify_sys::procfs;

use super::limits::{Limit, Version};

/// The parent of all guests' cgroups.
const PARENT: &str = "vserver";

/// The root of the guest's own tree in version 2.
const GUEST: &str = "guest";
/// The cgroup of commands that enter the guest later, in version 2.
const ENTERED: &str = "entered";
/// How deep a guest may divide its tree: so that the path of each cgroup in it is below `PATH_MAX`.
const DEEPEST: &str = "12";
/// How many cgroups a guest may make.
const MOST: &str = "4096";

/// The path of the cgroup of a guest's process 1, as the specification has it.
#[must_use]
pub fn path(context: u32) -> String {
    let limited = format!("/{PARENT}/{context}");
    match hierarchies().as_slice() {
        [only] if only.is_unified => format!("{limited}/{GUEST}"),
        _ => limited,
    }
}

/// Whether a guest can have a tree of its own to divide, which systemd needs.
#[must_use]
pub fn has_unified() -> bool {
    hierarchies().iter().any(|hierarchy| hierarchy.is_unified)
}

/// A guest's cgroup in each hierarchy that the host has mounted.
#[must_use]
pub fn directories(context: u32) -> Vec<PathBuf> {
    let hierarchies = hierarchies();
    let own = hierarchies.iter().map(|hierarchy| hierarchy.of(context));
    own.collect()
}

/// A guest's cgroup of version 2, where that is not all that the host has.
fn unified_beside_others(context: u32) -> Option<PathBuf> {
    let hierarchies = hierarchies();
    let unified = hierarchies.iter().find(|hierarchy| hierarchy.is_unified)?;
    (hierarchies.len() > 1).then(|| unified.of(context))
}

/// Takes a context number for this host: the directory that is made is the proof.
///
/// False when another guest has it. [`remove`] gives it back.
///
/// # Errors
/// No hierarchy is mounted, or it cannot be written.
pub fn claim(context: u32) -> io::Result<bool> {
    let Some(first) = directories(context).into_iter().next() else {
        let reason = "no cgroup hierarchy is mounted";
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    };
    if let Some(parent) = first.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::create_dir(&first) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Limits depth and number of the cgroups that the guest may make in its own tree.
///
/// # Errors
/// The kernel refuses.
pub fn set_tree_limits(context: u32) -> io::Result<()> {
    for hierarchy in hierarchies().iter().filter(|found| found.is_unified) {
        let directory = hierarchy.of(context);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("cgroup.max.depth"), DEEPEST)?;
        fs::write(directory.join("cgroup.max.descendants"), MOST)?;
    }
    Ok(())
}

/// Membership of this process in the guest's cgroup of version 2, from which its children inherit it. It goes back
/// when this value is dropped.
///
/// Where a host has both versions, `libcontainer` moves init within version 1 alone, and in version 2 init stays
/// where its parent is.
#[derive(Debug)]
pub struct TemporaryMembership {
    before: Option<PathBuf>,
}

impl TemporaryMembership {
    /// Moves this process there; nothing to do where the host has one version.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of(context: u32) -> io::Result<Self> {
        let Some(directory) = unified_beside_others(context) else {
            return Ok(Self { before: None });
        };
        let own = procfs::own_cgroup()?;
        let top = directory.ancestors().nth(2).unwrap_or(&directory);
        let before = top.join(own.unwrap_or_default()).join("cgroup.procs");
        let guest = directory.join(GUEST);
        fs::create_dir_all(&guest)?;
        fs::write(guest.join("cgroup.procs"), b"0")?;
        let before = Some(before);
        Ok(Self { before })
    }
}

impl Drop for TemporaryMembership {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Where that is gone, this process stays, and is killed with the guest, which it only watches.
            drop(fs::write(before, b"0"));
        }
    }
}

/// Delegates the guest's own tree to its root, who is this user of the host (cgroups(7), *Delegation*).
///
/// # Errors
/// The kernel refuses.
pub fn delegate(context: u32, user: u32) -> io::Result<()> {
    for hierarchy in hierarchies().iter().filter(|found| found.is_unified) {
        let root = hierarchy.of(context).join(GUEST);
        for below in [
            "",
            "cgroup.procs",
            "cgroup.subtree_control",
            "cgroup.threads",
        ] {
            std::os::unix::fs::chown(root.join(below), Some(user), Some(user))?;
        }
    }
    Ok(())
}

/// Moves this process into the guest's cgroups, for good.
///
/// # Errors
/// One of them refuses: the guest must not have a process that is not counted.
pub fn enter(context: u32) -> io::Result<()> {
    for hierarchy in hierarchies() {
        let mut directory = hierarchy.of(context);
        if !directory.is_dir() {
            continue;
        }
        if hierarchy.is_unified {
            directory.push(ENTERED);
            fs::create_dir_all(&directory)?;
        }
        fs::write(directory.join("cgroup.procs"), b"0")?;
    }
    Ok(())
}

/// The processes of a guest, by the host's numbers.
#[must_use]
pub fn processes(context: u32) -> BTreeSet<i32> {
    let listed = |directory: PathBuf| fs::read_to_string(directory.join("cgroup.procs")).ok();
    directories(context)
        .iter()
        .flat_map(|directory| with_all_below(directory))
        .filter_map(listed)
        .flat_map(|text| {
            let numbers = text.lines().filter_map(|line| line.parse().ok());
            numbers.collect::<Vec<_>>()
        })
        .filter(|pid| *pid > 0)
        .collect()
}

/// A number that one of the guest's controllers keeps, under the name it has in either version.
#[must_use]
pub fn counter(context: u32, names: &[&str]) -> Option<u64> {
    directories(context).iter().find_map(|directory| {
        names
            .iter()
            .find_map(|name| number_in(&directory.join(name)))
    })
}

/// A number alone in a file, or on its line `usage_usec`.
fn number_in(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .unwrap_or(&text);
    line.trim().parse().ok()
}

/// Writes one value of `cgroup/` of the configuration.
///
/// # Errors
/// No controller has a file of that name, or refuses the value.
pub fn set(context: u32, name: &str, value: &str) -> io::Result<()> {
    let place = directories(context)
        .into_iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file());
    match place {
        Some(path) => fs::write(path, value),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "this kernel's controllers have no such file",
        )),
    }
}

/// Kills every process of the guest, those that it makes meanwhile, too, where the kernel can
/// (version 2 since Linux 5.14).
pub fn kill(context: u32) {
    for directory in directories(context) {
        drop(fs::write(directory.join("cgroup.kill"), b"1"));
    }
}

/// Why a limit cannot be set.
#[derive(Debug, Error)]
pub enum LimitError {
    /// Version 1 has nothing of the kind.
    #[error("{limit} needs cgroup version 2, which this host does not use")]
    NeedsVersion2 {
        /// The limit's name.
        limit: &'static str,
    },
    /// The kernel was built without the controller, or it is not enabled for the guest.
    #[error("{limit} cannot be set: this host's controllers have no {file}")]
    NoFile {
        /// The limit's name.
        limit: &'static str,
        /// The file that would hold it.
        file: &'static str,
    },
    /// The kernel refused the value.
    #[error(
        "{limit} cannot be set: {file} does not take {value}: {}",
        reason(source)
    )]
    Write {
        /// The limit's name.
        limit: &'static str,
        /// The file that was written.
        file: &'static str,
        /// What was written.
        value: String,
        /// Why not.
        source: io::Error,
    },
}

/// Sets one limit of a guest.
///
/// # Errors
/// This host's controllers cannot do it, or refuse the value.
pub fn set_limit(context: u32, limit: &Limit) -> Result<(), LimitError> {
    let writes = limit.writes(version());
    let limit = limit.name();
    if writes.is_empty() {
        return Err(LimitError::NeedsVersion2 { limit });
    }
    let directories = directories(context);
    for write in writes {
        let found = write.any_of.iter().find_map(|(file, value)| {
            let paths = directories.iter().map(|directory| directory.join(file));
            let path = paths.into_iter().find(|path| path.is_file())?;
            Some((*file, path, value))
        });
        let Some((file, path, value)) = found else {
            if write.is_optional {
                continue;
            }
            let (file, _) = write.any_of[0];
            return Err(LimitError::NoFile { limit, file });
        };
        fs::write(path, value).map_err(|source| LimitError::Write {
            limit,
            file,
            value: value.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Limits a guest's processes by default: nothing to do where the kernel does not count them, or does not for guests.
///
/// # Errors
/// The kernel refuses the value.
pub fn set_default_processes(context: u32, most: u64) -> Result<(), LimitError> {
    match set_limit(context, &Limit::Processes(Some(most))) {
        Err(LimitError::NoFile { .. }) => Ok(()),
        set => set,
    }
}

/// The version of the hierarchies that guests are in.
fn version() -> Version {
    if hierarchies().iter().any(|mounted| !mounted.is_unified) {
        Version::One
    } else {
        Version::Two
    }
}

/// The text that one of the guest's controllers keeps in a file, under the name that it has in
/// either version.
#[must_use]
pub fn text(context: u32, names: &[&str]) -> Option<String> {
    directories(context).iter().find_map(|directory| {
        let read = |name: &&str| fs::read_to_string(directory.join(name)).ok();
        names.iter().find_map(read)
    })
}

/// Removes the guest's cgroups. True when none is left.
#[must_use]
pub fn remove(context: u32) -> bool {
    let mut is_gone = true;
    for directory in directories(context) {
        for place in with_all_below(&directory).into_iter().rev() {
            match fs::remove_dir(&place) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => is_gone = false,
            }
        }
        // Empty when this was the last guest.
        if let Some(parent) = directory.parent() {
            drop(fs::remove_dir(parent));
        }
    }
    is_gone
}

/// A cgroup and those in it, each before those in itself.
fn with_all_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(place) = open.pop() {
        let entries = fs::read_dir(&place).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(inner.map(|entry| entry.path()));
        found.push(place);
    }
    found
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Hierarchy {
    /// Version 2.
    is_unified: bool,
    top: PathBuf,
}

impl Hierarchy {
    /// The cgroup of a guest in it.
    fn of(&self, context: u32) -> PathBuf {
        self.top.join(PARENT).join(context.to_string())
    }
}

/// All mounted hierarchies: each of version 1 that has a controller, then that of version 2.
fn hierarchies() -> Vec<Hierarchy> {
    of_mounts(&procfs::mounts("self").unwrap_or_default())
}

fn of_mounts(mounts: &[procfs::Mount]) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for mount in mounts {
        let is_named = || {
            mount
                .source_and_options
                .windows(5)
                .any(|part| part == b"name=")
        };
        let is_unified = match mount.kind.as_slice() {
            // A named hierarchy limits nothing; it is its owner's.
            b"cgroup" if !is_named() => false,
            // The same hierarchy, mounted again, is the same tree.
            b"cgroup2" if !found.iter().any(|known: &Hierarchy| known.is_unified) => true,
            _ => continue,
        };
        let top = mount.path();
        found.push(Hierarchy { is_unified, top });
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use vhashify_sys::procfs::parse_mounts;

    use super::{Hierarchy, of_mounts};

    #[test]
    fn hierarchies_with_controllers_come_first_and_version_2_last() {
        let found = |is_unified, top: &str| Hierarchy {
            is_unified,
            top: PathBuf::from(top),
        };
        let both = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    41 31 0:38 / /sys/fs/cgroup/a rw - cgroup2 cgroup2 rw\n\
                    42 31 0:38 / /elsewhere rw - cgroup2 cgroup2 rw\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        assert_eq!(
            of_mounts(&parse_mounts(both.as_bytes())),
            [
                found(false, "/sys/fs/cgroup/cpu"),
                found(true, "/sys/fs/cgroup/a")
            ]
        );
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            of_mounts(&parse_mounts(v2.as_bytes())),
            [found(true, "/sys/fs/cgroup")]
        );
        assert!(of_mounts(&[]).is_empty());
    }
}
