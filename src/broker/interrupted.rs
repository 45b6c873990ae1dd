//! Where a broker puts temporary names, and what interrupted breaks of its guest have left there.
//!
//! An interrupted break has put a copy in the place of some names of an object and not of others. The next break of
//! that object must go on with the same copy, or one file of the guest would become two. What a break of this broker
//! left is known here; what one of a dead broker left stands in its subdirectory, which this broker then takes over.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::resolve;

use crate::guest::Guest;
use crate::relink::copy_mark;
use crate::relink::names::each_name;
use crate::relink::temporary::Purpose;
use crate::relink::work_directory::{Leftovers, WorkDirectory, WorkPlace};

/// How long a broker waits for whoever tidies up after the one before it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A temporary name that leads to the object whose place a copy has taken.
#[derive(Debug, Clone)]
pub struct Interrupted {
    /// The temporary name.
    pub temporary: WorkPlace,
    /// The path below the vdir of the directory of the name that it serves.
    pub directory: Vec<u8>,
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
    _adopted: Leftovers,
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
        if let Some(opened) = &*opened
            && !opened.work.is_lost()
        {
            return Ok(Arc::clone(&opened.work));
        }
        let beside = store.map_or(guest.root.as_fd(), AsFd::as_fd);
        let work = Arc::new(WorkDirectory::of_broker(beside, guest.inode)?);
        let adopted = adopt(&work, guest)?;
        let interrupted = find(guest, &adopted)?;
        *opened = Some(Opened {
            work: Arc::clone(&work),
            interrupted,
            _adopted: adopted,
        });
        Ok(work)
    }

    /// What interrupted breaks of this object have left.
    #[must_use]
    pub fn of(&self, object: u64) -> Vec<Interrupted> {
        let opened = self.opened();
        let all = opened.iter().flat_map(|opened| &opened.interrupted);
        all.filter(|one| one.object == object).cloned().collect()
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
        let names = resolve::names(directory.as_fd()).ok()?;
        let mut names = names.into_iter();
        let served = names.find(|name| self.temporary.name.serves(name))?;
        let file = resolve::open_file(directory.as_fd(), &served).ok()?;
        (copy_mark::of(file.as_fd()) == Ok(Some(self.object))).then_some(file)
    }
}

/// Takes over what dead brokers of this guest left. Where a run tidies up after them, it waits for that.
fn adopt(work: &WorkDirectory, guest: &Guest) -> Result<Leftovers, FailedCall> {
    let begun = Instant::now();
    loop {
        let left = work.leftovers_of_brokers(Some(guest.inode))?;
        if !left.is_taken || begun.elapsed() > PATIENCE {
            return Ok(left);
        }
        drop(left);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The names in the guest that these served.
fn find(guest: &Guest, left: &Leftovers) -> Result<Vec<Interrupted>, FailedCall> {
    let copies = left.names.iter();
    let copies: Vec<&WorkPlace> = copies
        .filter(|one| one.name.purpose == Purpose::Own)
        .collect();
    if copies.is_empty() {
        return Ok(Vec::new());
    }
    let mut directories: HashMap<u64, Vec<u8>> = HashMap::from([(guest.inode, Vec::new())]);
    let wanted = |inode| copies.iter().any(|one| one.name.directory == inode);
    each_name(guest, |directory, name, inode| {
        if wanted(inode) {
            directories.insert(inode, crate::scan::join(directory, name));
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
