//! Which process tells the mounts of which namespace, and from whom a process descends. One `readlink(2)` a process,
//! one `mountinfo` a namespace.

use std::collections::{HashMap, HashSet};
use std::io;

use rustix::io::Errno;
use vhashify_sys::procfs::{self, Mount, Place, ProcessRoot, is_gone};

/// Root directories that are looked at in a namespace of which no process has the namespace's own.
const MOST_ROOTS: usize = 16;

/// How far up processes are climbed.
const MOST_ANCESTORS: usize = 64;

/// Calls `each` for one process of each mount namespace, with its root directory and its mounts: for a process whose root
/// directory is that of the namespace, since the mounts of others are listed in part. Where there is none, for one process
/// of each root directory. A root directory is missing where this process may not look at it (`ptrace(2)`); the mounts
/// are listed for everybody. `refused` hears of mounts that nobody could tell.
pub(super) fn each_namespace(
    processes: &[i32],
    each: impl FnMut(i32, Option<&ProcessRoot>, &[Mount]),
    mut refused: impl FnMut(i32, io::Error),
) {
    let mut asking = Asking {
        each,
        first_mounts: HashSet::new(),
    };
    // `None` once it is told.
    let mut namespaces: HashMap<u64, Option<Untold>> = HashMap::new();
    let mut hidden = Vec::new();
    for &process in processes {
        let namespace = match procfs::mount_namespace(process) {
            Ok(namespace) => namespace,
            Err(errno) if is_gone(errno) => continue,
            Err(_) => {
                hidden.push(process);
                continue;
            }
        };
        let known = namespaces
            .entry(namespace)
            .or_insert_with(|| Some(Untold::default()));
        let Some(untold) = known else {
            continue;
        };
        match procfs::root(process) {
            Ok(root) if root.is_of_namespace => match asking.ask(process, Some(&root)) {
                Ok(()) => *known = None,
                Err(error) => untold.is_refused(process, error),
            },
            Ok(root) => untold.meet(process, root.place),
            Err(errno) if is_gone(errno) => {}
            Err(_) => hidden.push(process),
        }
    }
    for mut untold in namespaces.into_values().flatten() {
        for (process, _) in std::mem::take(&mut untold.changed) {
            let root = procfs::root(process).map_err(Into::into);
            if let Err(error) = root.and_then(|root| asking.ask(process, Some(&root))) {
                untold.is_refused(process, error);
            }
        }
        if let Some((process, error)) = untold.refused {
            refused(process, error);
        }
    }
    for process in hidden {
        let known = procfs::first_mount(process).map(|mount| asking.first_mounts.contains(&mount));
        let asked = match known {
            Ok(true) => Ok(()),
            Ok(false) => asking.ask(process, None),
            Err(error) => Err(error),
        };
        if let Some(error) = asked.err().filter(|error| !has_ended(error)) {
            refused(process, error);
        }
    }
}

struct Asking<F> {
    each: F,
    /// The first mount of each list that was read, which no other has.
    first_mounts: HashSet<u64>,
}

impl<F: FnMut(i32, Option<&ProcessRoot>, &[Mount])> Asking<F> {
    fn ask(&mut self, process: i32, root: Option<&ProcessRoot>) -> io::Result<()> {
        let mounts = procfs::mounts(process)?;
        self.first_mounts
            .extend(mounts.first().map(|mount| mount.id));
        (self.each)(process, root, &mounts);
        Ok(())
    }
}

/// A mount namespace that is not told yet.
#[derive(Default)]
struct Untold {
    /// Processes with root directories of their own, one for each of these.
    changed: Vec<(i32, Place)>,
    refused: Option<(i32, io::Error)>,
}

impl Untold {
    /// A process of the namespace has another root directory.
    fn meet(&mut self, process: i32, place: Place) {
        if self.changed.iter().any(|(_, known)| *known == place) {
            return;
        }
        if self.changed.len() < MOST_ROOTS {
            self.changed.push((process, place));
        } else {
            let error = io::Error::other("its namespace has too many root directories");
            self.refused = Some((process, error));
        }
    }

    /// The mounts of a process cannot be read; where it has ended, another one may tell.
    fn is_refused(&mut self, process: i32, error: io::Error) {
        if !has_ended(&error) {
            self.refused = Some((process, error));
        }
    }
}

/// Whether a process has ended; one that is about to is in no namespace any more (`EINVAL`).
fn has_ended(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| is_gone(errno) || errno == Errno::INVAL)
}

/// A process and those that it descends from, as far as they are there. An orphan descends from the first process of its
/// pid namespace, which adopts it.
pub(super) fn ancestors(process: i32) -> Vec<i32> {
    let mut all = vec![process];
    while all.len() < MOST_ANCESTORS
        && let Some(&last) = all.last()
        && let Ok(status) = procfs::status(last)
        && let Some(parent) = status.number("PPid").filter(|&parent| parent > 0)
    {
        all.push(parent);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::process::{Child, Command};

    use super::each_namespace;
    use vhashify_sys::procfs::{first_mount, mount_namespace};

    #[test]
    fn of_hundreds_of_processes_one_of_each_namespace_is_asked() {
        let sleep = || Command::new("sleep").arg("60").spawn().unwrap();
        let mut children: Vec<Child> = (0..200).map(|_| sleep()).collect();
        // Has just ended.
        children[0].kill().unwrap();
        children[0].wait().unwrap();
        let processes: Vec<i32> = children
            .iter()
            .map(|child| child.id().cast_signed())
            .collect();
        let mut asked = Vec::new();
        each_namespace(
            &processes,
            |process, root, mounts| {
                assert!(root.is_some_and(|root| root.is_of_namespace));
                assert_eq!(first_mount(process).unwrap(), mounts[0].id);
                asked.push(process);
            },
            |process, error| panic!("{process}: {error}"),
        );
        let namespaces: HashSet<u64> = processes[1..]
            .iter()
            .map(|process| mount_namespace(process).unwrap())
            .collect();
        for child in &mut children[1..] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!((namespaces.len(), asked), (1, vec![processes[1]]));
    }
}
