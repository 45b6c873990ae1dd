//! Finds every name by which a guest has an inode: from the last walk of the guest while that is certain, and by
//! another walk otherwise.
//!
//! # When one name is all of them
//!
//! A walk finds the inodes that have more than one name in the guest. Names that are moved or removed afterwards show
//! that when they are looked at. Only two can add a name:
//!
//! - the guest, by `link(2)`: the broker is asked before, and remembers the object ([`PendingLinks`]) until a
//!   walk has found the name;
//! - a run of `vhashify`: it counts itself on the store ([`RunState`]), and the broker then drops the last walk.
//!
//! So between two runs an object that is neither remembered nor among those with several names has exactly
//! the name that the caller used. While a run is under way every break walks.
//!
//! A guest that outruns the broker (it changes the path between look and call) can give an object a second name unseen,
//! and so split its own link group; no other guest's. Hard links that somebody on the host makes in the guest are
//! unseen, too.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::pending_links::PendingLinks;
use crate::guest::Guest;
pub use crate::relink::names::Name;
use crate::relink::names::each_name;
use crate::store::RunState;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::resolve;

/// Finds the names of a guest's inodes.
#[derive(Debug)]
pub struct LinkGroups {
    /// The store of the guest's filesystem; without one every question is a walk.
    store: Option<OwnedFd>,
    known: Mutex<Option<Known>>,
    pending: PendingLinks,
}

/// The result of a walk.
#[derive(Debug)]
struct Known {
    /// The last run before it.
    run: u64,
    /// The names of each inode that had more than one.
    several: HashMap<u64, Vec<Name>>,
}

/// A name and its open directory.
#[derive(Debug)]
pub struct Placed {
    /// The name's directory: one descriptor for all names in it.
    pub directory: Rc<OwnedFd>,
    /// The name.
    pub name: Name,
}

impl Placed {
    fn leads_to(&self, inode: u64) -> bool {
        resolve::inode_of(self.directory.as_fd(), &self.name.name) == Ok(inode)
    }
}

/// Opens the directories of `names`; `None` where one is gone.
fn placed(guest: &Guest, names: Vec<Name>) -> Result<Option<Vec<Placed>>, Errno> {
    let mut placed: Vec<Placed> = Vec::with_capacity(names.len());
    for name in names {
        // A walk lists names by directory, so that large groups need few descriptors.
        let directory = match placed.last() {
            Some(last) if last.name.directory == name.directory => Rc::clone(&last.directory),
            _ => match resolve::open_directory(guest.root.as_fd(), &name.directory) {
                Ok(directory) => Rc::new(directory),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(None),
                Err(errno) => return Err(errno),
            },
        };
        placed.push(Placed { directory, name });
    }
    Ok(Some(placed))
}

impl LinkGroups {
    /// Knows no walk yet.
    #[must_use]
    pub fn new(store: Option<OwnedFd>) -> Self {
        Self {
            store,
            known: Mutex::default(),
            pending: PendingLinks::default(),
        }
    }

    /// The store's directory.
    #[must_use]
    pub fn store(&self) -> Option<&OwnedFd> {
        self.store.as_ref()
    }

    /// The objects to which the guest gives names.
    #[must_use]
    pub fn pending_links(&self) -> &PendingLinks {
        &self.pending
    }

    /// Every name by which the guest has `inode`, with its directory; temporary names of replacements are among
    /// them. `hint` is a name that may be one. `None` where the guest moves directories meanwhile.
    ///
    /// # Errors
    /// A directory that cannot be opened or read.
    pub fn names(
        &self,
        guest: &Guest,
        inode: u64,
        hint: Option<&Name>,
    ) -> Result<Option<Vec<Placed>>, FailedCall> {
        let placed = |names| placed(guest, names).map_err(FailedCall::of("openat2"));
        if !self.pending.may_have_new_names(inode)
            && let RunState::Over(run) = self.run()
            && let Some(names) = self.recall(run, inode, hint)
            && let Some(placed) = placed(names)?
            && placed.iter().all(|name| name.leads_to(inode))
        {
            return Ok(Some(placed));
        }
        placed(
            self.walk(guest, inode)
                .map_err(FailedCall::of("getdents64"))?,
        )
    }

    /// Whether a run replaces names at the moment.
    #[must_use]
    pub fn run(&self) -> RunState {
        self.store.as_ref().map_or(RunState::UnderWay, RunState::of)
    }

    fn recall(&self, run: u64, inode: u64, hint: Option<&Name>) -> Option<Vec<Name>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().filter(|known| known.run == run)?;
        match known.several.get(&inode) {
            Some(names) => Some(names.clone()),
            None => hint.map(|name| vec![name.clone()]),
        }
    }

    fn walk(&self, guest: &Guest, wanted: u64) -> Result<Vec<Name>, Errno> {
        let (before, findable) = (self.run(), self.pending.without_calls());
        // Two walks, so that the many inodes with a single name cost no memory for it.
        let (mut seen, mut several) = (HashSet::new(), HashMap::<u64, Vec<Name>>::new());
        each_name(guest, |_, _, inode| {
            if !seen.insert(inode) {
                several.entry(inode).or_default();
            }
        })?;
        drop(seen);
        let mut found = Vec::new();
        each_name(guest, |directory, name, inode| {
            let this = || Name {
                directory: directory.to_vec(),
                name: name.to_vec(),
            };
            if inode == wanted {
                found.push(this());
            }
            if let Some(names) = several.get_mut(&inode) {
                names.push(this());
            }
        })?;
        if let RunState::Over(run) = before
            && self.run() == before
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            *known = Some(Known { run, several });
            self.pending.forget(&findable);
        }
        Ok(found)
    }
}
