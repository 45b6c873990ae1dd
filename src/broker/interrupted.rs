//! Where a broker puts temporary names, and what interrupted breaks of its guest have left there.
//!
//! An interrupted break has put a copy in the place of some names of an object and not of others. The next break of
//! that object must go on with the same copy, or one file of the guest would become two:
//!
//! | whose copy | where it is known from | a break |
//! | --- | --- | --- |
//! | this broker's | memory | goes on with it |
//! | a dead broker's | its subdirectory, which this broker takes over | goes on with it |
//! | another broker's that lives, or one that a run tidies up after | that subdirectory, under a lock | waits |
//! | of `deunify`, under way | the run's subdirectories | waits |
//! | of `deunify`, killed | the same | goes on with it |

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::directory::Directory;
use vhashify_sys::resolve;

use crate::guest::Guest;
use crate::relink::copy_mark;
use crate::relink::names::{each_name, join};
use crate::relink::temporary::Purpose;
use crate::relink::work_directory::{Leftovers, WorkDirectory, WorkPlace};
use crate::store::RunState;

/// A temporary name that leads to the object whose place a copy has taken.
#[derive(Debug, Clone)]
pub struct Interrupted {
    /// The temporary name.
    pub temporary: WorkPlace,
    /// The path below the vdir of the directory of the name that it serves.
    pub directory: Arc<[u8]>,
    /// The inode number of the object.
    pub object: u64,
}

/// The work directory of one broker, from its first break on.
#[derive(Debug, Default)]
pub struct BrokerWork {
    opened: Mutex<Option<Opened>>,
}

#[derive(Debug)]
struct Opened {
    work: Arc<WorkDirectory>,
    interrupted: Vec<Interrupted>,
    /// Of dead brokers of this guest: nobody else may take them over.
    adopted: Leftovers,
    /// The last run, where it has left no copy.
    tidy_run: Option<RunState>,
}

impl BrokerWork {
    /// The work directory beside `store`, which is made where it is missing. Without a store it is beside the vdir.
    ///
    /// # Errors
    /// The call that failed.
    pub fn open(
        &self,
        guest: &Guest,
        store: Option<&OwnedFd>,
    ) -> Result<Arc<WorkDirectory>, FailedCall> {
        let mut opened = self.opened();
        let usable = opened.take().filter(|opened| !opened.work.is_lost());
        let opened = if let Some(usable) = usable {
            opened.insert(usable)
        } else {
            let beside = store.map_or(guest.root.as_fd(), AsFd::as_fd);
            opened.insert(Opened {
                work: Arc::new(WorkDirectory::of_broker(beside, guest.inode)?),
                interrupted: Vec::new(),
                adopted: Leftovers::default(),
                tidy_run: None,
            })
        };
        let left = &opened.adopted;
        let left = opened.work.leftovers_of_brokers(Some(guest.inode), left)?;
        opened.interrupted.extend(find(guest, &left.names)?);
        opened.adopted.add(left);
        Ok(Arc::clone(&opened.work))
    }

    /// What interrupted breaks of this object, and an interrupted `deunify`, have left. `None` while another broker or a
    /// `deunify` has it in hand; `is_left` says whether a run that has was killed. To be asked after
    /// [`open`](Self::open), and after the names of the object were found: who takes names away meanwhile is seen
    /// here.
    ///
    /// # Errors
    /// The call that failed.
    pub fn of(
        &self,
        guest: &Guest,
        object: u64,
        run: RunState,
        is_left: impl Fn() -> bool,
    ) -> Result<Option<Vec<Interrupted>>, FailedCall> {
        let mut opened = self.opened();
        let Some(opened) = &mut *opened else {
            return Ok(Some(Vec::new()));
        };
        let is_its = |one: &&WorkPlace| {
            one.name.purpose == Purpose::Own
                && one.name.object == object
                && resolve::inode_of(one.directory.as_fd(), one.bytes()) == Ok(object)
        };
        if opened.adopted.in_hand.iter().any(|one| is_its(&one)) {
            return Ok(None);
        }
        let all = opened.interrupted.iter();
        let mut found: Vec<Interrupted> = all.filter(|one| one.object == object).cloned().collect();
        if run == RunState::UnderWay || opened.tidy_run != Some(run) {
            let names = opened.work.names_of_run()?;
            let has_copies = names.iter().any(|one| one.name.purpose == Purpose::Own);
            opened.tidy_run = (!has_copies).then_some(run);
            let its: Vec<WorkPlace> = names.iter().filter(is_its).cloned().collect();
            let its = find(guest, &its)?;
            if !its.is_empty() && !is_left() {
                return Ok(None);
            }
            found.extend(its);
        }
        Ok(Some(found))
    }

    /// Remembers what a break leaves behind.
    pub fn add(&self, left: impl IntoIterator<Item = Interrupted>) {
        if let Some(opened) = &mut *self.opened() {
            opened.interrupted.extend(left);
        }
    }

    /// Forgets what was left of an object.
    pub fn forget(&self, object: u64) {
        if let Some(opened) = &mut *self.opened() {
            opened.interrupted.retain(|one| one.object != object);
        }
    }

    fn opened(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interrupted {
    /// Opens the copy that the break has put in the place of the name that it served, whatever the guest has written to
    /// it since. `None` for a file that the guest has put there instead.
    #[must_use]
    pub fn copy(&self, guest: &Guest) -> Option<OwnedFd> {
        let directory = resolve::open_directory(guest.root.as_fd(), &self.directory).ok()?;
        if !self
            .temporary
            .name
            .is_of(&Directory::look(directory.as_fd()).ok()?)
        {
            return None;
        }
        let names = resolve::names(directory.as_fd()).ok()?;
        let mut names = names.into_iter();
        let served = names.find(|name| self.temporary.name.serves(name))?;
        let file = resolve::open_file(directory.as_fd(), &served).ok()?;
        (copy_mark::of(file.as_fd()) == Ok(Some(self.object))).then_some(file)
    }
}

/// The names in the guest that these served.
fn find(guest: &Guest, left: &[WorkPlace]) -> Result<Vec<Interrupted>, FailedCall> {
    let copies: Vec<&WorkPlace> = left
        .iter()
        .filter(|one| one.name.purpose == Purpose::Own)
        .collect();
    if copies.is_empty() {
        return Ok(Vec::new());
    }
    let mut directories: HashMap<u64, Arc<[u8]>> =
        HashMap::from([(guest.inode, Arc::from(b"".as_slice()))]);
    let wanted: HashSet<u64> = copies.iter().map(|one| one.name.directory).collect();
    each_name(guest, |directory, name, inode| {
        if wanted.contains(&inode) {
            directories.insert(inode, join(directory, name).into());
        }
    })
    .map_err(FailedCall::of("getdents64"))?;
    let found = copies.into_iter().filter_map(|one| {
        let object = match resolve::inode_of(one.directory.as_fd(), one.bytes()) {
            Ok(inode) => inode,
            Err(Errno::NOENT) => return None,
            Err(errno) => {
                tracing::warn!(%errno, "what an interrupted break left cannot be looked at");
                return None;
            }
        };
        Some(Interrupted {
            temporary: one.clone(),
            directory: directories.get(&one.name.directory)?.clone(),
            object,
        })
    });
    Ok(found.collect())
}
