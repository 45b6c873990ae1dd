//! Where a guest's processes are counted and limited: `vserver/CONTEXT` in every hierarchy that the
//! host has, of either version.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::limits::{Limit, Version};

/// The parent of all guests' cgroups.
const PARENT: &str = "vserver";

/// The path of a guest's cgroup, as the specification has it.
#[must_use]
pub fn path(context: u32) -> String {
    format!("/{PARENT}/{context}")
}

/// A guest's cgroup in each hierarchy that the host has mounted.
#[must_use]
pub fn directories(context: u32) -> Vec<PathBuf> {
    hierarchies()
        .iter()
        .map(|top| top.join(PARENT).join(context.to_string()))
        .collect()
}

/// Takes a context number for this host: the directory that is made is the proof.
///
/// False when somebody has it. What a start leaves behind is removed by [`remove`].
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

/// Puts this process into the guest's cgroups.
///
/// # Errors
/// One of them cannot be joined: the guest must not have a process that is not counted.
pub fn join(context: u32) -> io::Result<()> {
    for directory in directories(context) {
        if directory.is_dir() {
            fs::write(directory.join("cgroup.procs"), b"0")?;
        }
    }
    Ok(())
}

/// The processes of a guest, by the host's numbers.
#[must_use]
pub fn processes(context: u32) -> BTreeSet<i32> {
    let listed = |directory: PathBuf| fs::read_to_string(directory.join("cgroup.procs")).ok();
    directories(context)
        .into_iter()
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

/// Sets one limit of a guest.
///
/// # Errors
/// This host's controllers cannot do it, or refuse the value: what is wrong, for one line.
pub fn limit(context: u32, limit: &Limit) -> Result<(), String> {
    let writes = limit.writes(version());
    if writes.is_empty() {
        let name = limit.name();
        return Err(format!(
            "{name} needs cgroup version 2, which this host does not use"
        ));
    }
    let directories = directories(context);
    for write in writes {
        let found = write.any_of.iter().find_map(|(file, value)| {
            let places = directories.iter().map(|directory| directory.join(file));
            let place = places.into_iter().find(|place| place.is_file())?;
            Some((file, place, value))
        });
        let Some((file, place, value)) = found else {
            if write.is_optional {
                continue;
            }
            let (file, _) = write.any_of[0];
            return Err(format!(
                "{} cannot be set: this host's controllers have no {file}",
                limit.name()
            ));
        };
        fs::write(place, value).map_err(|error| {
            let words = crate::error::reason(&error);
            format!(
                "{} cannot be set: {file} does not take {value}: {words}",
                limit.name()
            )
        })?;
    }
    Ok(())
}

/// The version of the hierarchies that guests are in.
fn version() -> Version {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let has_controllers = |line: &str| line.contains(" - cgroup ") && !line.contains("name=");
    if mounts.lines().any(has_controllers) {
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
        match fs::remove_dir(&directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => is_gone = false,
        }
        // Empty when this was the last guest.
        if let Some(parent) = directory.parent() {
            drop(fs::remove_dir(parent));
        }
    }
    is_gone
}

/// The tops of all mounted hierarchies: each of version 1 that has a controller, and version 2.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    tops(&mounts)
}

fn tops(mountinfo: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut unified = None;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let Some(place) = before.split(' ').nth(4) else {
            continue;
        };
        match after.split(' ').next() {
            // A named hierarchy limits nothing; it is its owner's.
            Some("cgroup") if !after.contains("name=") => found.push(PathBuf::from(place)),
            Some("cgroup2") => unified = Some(PathBuf::from(place)),
            _ => {}
        }
    }
    if found.is_empty() {
        found.extend(unified);
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::tops;

    #[test]
    fn version_1_is_used_where_it_has_controllers() {
        let v1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                  32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                  41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(tops(v1), [std::path::Path::new("/sys/fs/cgroup/cpu")]);
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(tops(v2), [std::path::Path::new("/sys/fs/cgroup")]);
        assert!(tops("").is_empty());
    }
}
