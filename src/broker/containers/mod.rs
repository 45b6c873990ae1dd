//! Copy on write for containers that others start: runc, crun, youki and LXC.
//!
//! ```text
//! the runtime loads the container's filter ─ connects ─ sends the listener, and which process it is of
//! here: that process's root ─ its store ─ a broker ─ threads that serve the listener
//! ```
//!
//! | file | what it is about |
//! | --- | --- |
//! | [`socket`] | the socket: made at once, nobody else's, gone afterwards |
//! | [`attend`] | accepts connections until it is told to end |
//! | [`oci`] | what an OCI runtime sends (`config-linux.md` of the runtime specification, *seccomp*) |
//! | [`lxc_hook`] | how the broker has the listener of a container of LXC before that can do anything |
//! | [`lxc_proxy`] | the calls that LXC's monitor receives and asks about |
//! | [`root`] | the root directory of a container's process |
//! | [`error`] | why a message is refused |
//!
//! # Which files are a container's
//!
//! Those below the root directory of the process that the runtime names, on the filesystem of a store. The
//! directory is opened through the mount of that store: the container's own mounts may hide names of a link
//! group, show files under other owners, or be read-only. All processes with one root directory have one
//! broker, also those that enter a container later.
//!
//! A container on a filesystem without a store, an overlay of images for example, shares nothing: its calls
//! go on.
//!
//! # Whom it trusts
//!
//! The socket is root's alone, so that whoever connects can do anything anyhow. Still a message is bounded
//! in size and time, a descriptor that is no listener is closed, and a process that has ended meanwhile, or
//! has no filter, is none. The guest itself never connects.

pub mod attend;
pub mod error;
pub mod lxc_hook;
pub mod lxc_proxy;
pub mod oci;
pub mod root;
pub mod socket;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use vhashify_sys::procfs;
use vhashify_sys::shown::Shown;

use self::error::Unserved;
use self::root::Root;
use super::Broker;
use super::break_link::Breaker;
use super::serve::{Judge, LetGo};
use crate::guest::{Guest, StoreLocation};

/// The containers that are served, and the stores of what they may share.
#[derive(Debug)]
pub struct Containers {
    stores: Vec<StoreLocation>,
    /// By the device and inode number of their root directories.
    served: Mutex<HashMap<(u64, u64), Weak<Broker>>>,
    /// From when the guard is loaded on.
    #[cfg(feature = "guard")]
    permit: Mutex<Option<crate::protect::guard::Permit>>,
}

/// Who judges the calls of a process.
pub struct Chosen {
    /// The judge.
    pub judge: Arc<dyn Judge>,
    /// Whether it is the first process of its container.
    pub is_first: bool,
}

impl Containers {
    /// None yet. `stores` are on different filesystems.
    #[must_use]
    pub fn new(stores: Vec<StoreLocation>) -> Self {
        Self {
            stores,
            served: Mutex::default(),
            #[cfg(feature = "guard")]
            permit: Mutex::default(),
        }
    }

    /// Who judges the calls of `process`, which is of the container `name`. Where nothing can be broken,
    /// that is said, and every call goes on.
    ///
    /// # Errors
    /// [`Unserved`]: there is no such process.
    pub fn choose(&self, process: i32, name: &str) -> Result<Chosen, Unserved> {
        let root = Root::of(process)?;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.retain(|_, broker| broker.strong_count() > 0);
        let place = (root.device, root.inode);
        if let Some(broker) = served.get(&place).and_then(Weak::upgrade) {
            return Ok(Chosen {
                judge: broker,
                is_first: false,
            });
        }
        #[cfg(feature = "guard")]
        self.be_permitted();
        let shown = Shown::bytes(name.as_bytes());
        match self.open(&root, name) {
            Ok(Some((guest, store))) => {
                tracing::info!("{shown} is served, in {}", Shown::path(&guest.vdir));
                let breaker = Breaker::new(guest, Some(store));
                let broker = Arc::new(Broker::new(breaker, Box::new(processes)));
                served.insert(place, Arc::downgrade(&broker));
                return Ok(Chosen {
                    judge: broker,
                    is_first: true,
                });
            }
            Ok(None) => tracing::warn!(
                "no store is known on the filesystem of {shown}, so that its calls go on as they are; if it \
                 shares files, name their store with --destination"
            ),
            Err(error) => {
                tracing::warn!(
                    "nothing is broken for {shown}, whose calls go on as they are: {error}"
                );
            }
        }
        Ok(Chosen {
            judge: Arc::new(LetGo),
            is_first: true,
        })
    }

    /// Has the guard, if there is one by now, let this process take leases on objects.
    #[cfg(feature = "guard")]
    fn be_permitted(&self) {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        if permit.is_none() {
            *permit = crate::protect::guard::Permit::acquire().unwrap_or_else(|error| {
                tracing::error!(%error, "the guard does not let the broker work");
                None
            });
        }
    }

    /// The guest that a container is, and the store of its filesystem.
    fn open(&self, root: &Root, name: &str) -> Result<Option<(Guest, OwnedFd)>, Unserved> {
        let Some(store) = self.stores.iter().find(|store| store.device == root.device) else {
            return Ok(None);
        };
        let guest = root.guest(OsStr::new(name), store)?;
        let directory = store.directory.try_clone().map_err(Unserved::Receive)?;
        Ok(Some((guest, directory)))
    }
}

/// All processes of the host: whoever has a container's open file is in no list of its own.
fn processes() -> Vec<i32> {
    procfs::processes().unwrap_or_default()
}
