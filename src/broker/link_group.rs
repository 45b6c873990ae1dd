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

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::known_names::KnownNames;
use super::pending_links::PendingLinks;
use super::walked::{Payer, Walked};
use crate::guest::Guest;
pub use crate::relink::names::Name;
use crate::store::RunState;
use vhashify_sys::call_error::FailedCall;
use vhashify_sys::resolve;

/// Finds the names of a guest's inodes.
pub struct LinkGroups {
    /// The store of the guest's filesystem; without one every question is a walk.
    store: Option<OwnedFd>,
    known: Mutex<Option<Known>>,
    pending: PendingLinks,
    payer: Option<Payer>,
}

/// The result of a walk.
#[derive(Debug)]
struct Known {
    /// The last run before it.
    run: u64,
    /// The names of each inode that had more than one.
    several: KnownNames,
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

impl std::fmt::Debug for LinkGroups {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("LinkGroups")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl LinkGroups {
    /// Knows no walk yet.
    #[must_use]
    pub fn new(store: Option<OwnedFd>) -> Self {
        Self {
            store,
            known: Mutex::default(),
            pending: PendingLinks::default(),
            payer: None,
        }
    }

    /// Has walks count where `payer` says. Otherwise they are this process's own work.
    pub fn have_paid(&mut self, payer: Payer) {
        self.payer = Some(payer);
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
    /// them. `hint` is a name that may be one; a walk counts as the `thread`'s work. `None` where the guest moves directories meanwhile.
    ///
    /// # Errors
    /// A directory that cannot be opened or read.
    pub fn names(
        &self,
        guest: &Guest,
        inode: u64,
        hint: Option<&Name>,
        thread: u32,
    ) -> Result<Option<Vec<Placed>>, FailedCall> {
        let placed = |names| placed(guest, names).map_err(FailedCall::of("openat2"));
        if !self.pending.may_have_new_names(inode)
            && let RunState::Over(run) = self.run()
            && let Some(names) = self
                .recall(run, inode, hint)
                .map_err(FailedCall::of("malloc"))?
            && let Some(placed) = placed(names)?
            && placed.iter().all(|name| name.leads_to(inode))
        {
            return Ok(Some(placed));
        }
        placed(
            self.walk(guest, inode, thread)
                .map_err(FailedCall::of("getdents64"))?,
        )
    }

    /// Whether a run replaces names at the moment.
    #[must_use]
    pub fn run(&self) -> RunState {
        self.store.as_ref().map_or(RunState::UnderWay, RunState::of)
    }

    fn recall(
        &self,
        run: u64,
        inode: u64,
        hint: Option<&Name>,
    ) -> Result<Option<Vec<Name>>, Errno> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_ref().filter(|known| known.run == run) else {
            return Ok(None);
        };
        let several = known.several.of(inode)?;
        Ok(several.or_else(|| hint.map(|name| vec![name.clone()])))
    }

    fn walk(&self, guest: &Guest, wanted: u64, thread: u32) -> Result<Vec<Name>, Errno> {
        let (before, findable) = (self.run(), self.pending.without_calls());
        let walked = Walked::of(guest, wanted, self.payer.as_ref(), thread)?;
        if let RunState::Over(run) = before
            && self.run() == before
            && let Some(several) = walked.several
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            *known = Some(Known { run, several });
            self.pending.forget(&findable);
        }
        Ok(walked.wanted)
    }
}
