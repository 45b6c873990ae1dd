//! Copy on write for containers of other runtimes: runc, crun, youki and LXC.
//!
//! ```text
//! the runtime loads the container's filter ─ connects ─ sends the listener and the process's number
//! here: that process's root ─ its store ─ a broker ─ threads that serve the listener
//! ```
//!
//! | file | what it does |
//! | --- | --- |
//! | [`socket`] | makes the socket in one step, and removes it |
//! | [`accept_loop`](mod@accept_loop) | accepts connections until a signal comes |
//! | [`oci`] | serves the listener that an OCI runtime sends (`config-linux.md` of its specification, *seccomp*) |
//! | [`lxc_hook`] | serves a container of LXC before its init is executed |
//! | [`lxc_proxy`] | answers the calls that LXC's monitor passes on |
//! | [`protocol`] | defines names and limits of messages |
//! | [`root`] | finds the root directory of a container's process |
//! | [`process`] | tells whether a process has ended |
//! | [`error`] | defines errors of connections |
//!
//! # The files of a container
//!
//! A container's files are below the root directory of the process that the runtime names, on the filesystem of a store.
//! The broker opens that directory through the store's mount: the container's own mounts may hide names of a link
//! group, show other owners, or be read-only. All processes with the same root directory have the same broker, also
//! those that enter the container later.
//!
//! A container on a filesystem without a store, such as an overlay, shares no files. The broker lets its calls go on. It
//! refuses one on a store's filesystem whose root directory it cannot open.
//!
//! # Trust
//!
//! Only root can connect, and root can do anything anyway. Still the broker bounds the size and the time of a message,
//! closes every descriptor that is no listener, and refuses a process that has ended or has no filter. The guest
//! itself never connects.

pub mod accept_loop;
pub mod error;
pub mod lxc_hook;
pub mod lxc_proxy;
pub mod oci;
pub mod process;
pub mod protocol;
pub mod root;
pub mod socket;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use vhashify_sys::procfs;
use vhashify_sys::shown::Shown;

use self::error::ConnectionError;
use self::root::Root;
use super::Broker;
use super::break_link::Breaker;
use super::call::CallTable;
use super::serve::{AllowAll, Handler};
use super::walked::Payer;
use crate::guest::{Guest, StoreLocation};

/// The containers that are served, and the stores whose objects their files can be.
pub struct Containers {
    stores: Vec<StoreLocation>,
    calls: Arc<CallTable>,
    payer: Payer,
    /// Brokers by the device and inode number of the root directory.
    served: Mutex<HashMap<(u64, u64), Weak<Broker>>>,
    /// `None` until a guard is loaded.
    #[cfg(feature = "guard")]
    permit: Mutex<Option<crate::protect::guard::Permit>>,
}

/// How to serve a process's calls.
pub struct Chosen {
    /// Responds to them.
    pub handler: Arc<dyn Handler>,
    /// Whether it is the first process of its container.
    pub is_first: bool,
}

impl Containers {
    /// Serves no container yet. Each of `stores` is on a filesystem of its own. The brokers decode the calls in `calls`;
    /// `payer` says where a container's walks count.
    #[must_use]
    pub fn new(stores: Vec<StoreLocation>, calls: CallTable, payer: Payer) -> Self {
        Self {
            stores,
            payer,
            calls: Arc::new(calls),
            served: Mutex::default(),
            #[cfg(feature = "guard")]
            permit: Mutex::default(),
        }
    }

    /// Chooses the handler for the calls of `process` in the container `name`. If the container cannot share files, this
    /// warns, and the handler lets every call go on.
    ///
    /// # Errors
    /// [`ConnectionError`]: there is no such process, or its root directory is on the filesystem of a store and cannot be
    /// opened.
    pub fn choose(&self, process: i32, name: &str) -> Result<Chosen, ConnectionError> {
        let root = Root::of(process)?;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.retain(|_, broker| broker.strong_count() > 0);
        let place = (root.device, root.inode);
        if let Some(broker) = served.get(&place).and_then(Weak::upgrade) {
            return Ok(Chosen {
                handler: broker,
                is_first: false,
            });
        }
        #[cfg(feature = "guard")]
        self.acquire_permit();
        let shown = Shown::bytes(name.as_bytes());
        match self.open(&root, name) {
            Ok(Some((guest, store))) => {
                tracing::info!("{shown} is served, in {}", Shown::path(&guest.vdir));
                let breaker = Breaker::new(guest, Some(store)).paid_by(Arc::clone(&self.payer));
                let broker = Arc::new(Broker::new(
                    breaker,
                    Box::new(processes),
                    Arc::clone(&self.calls),
                ));
                served.insert(place, Arc::downgrade(&broker));
                return Ok(Chosen {
                    handler: broker,
                    is_first: true,
                });
            }
            Ok(None) => tracing::warn!(
                "no store is known on the filesystem of {shown}, so that its calls go on as they are; if it \
                 shares files, name their store with --destination"
            ),
            // It may share files, and nobody knows which.
            Err(error) => return Err(error),
        }
        Ok(Chosen {
            handler: Arc::new(AllowAll),
            is_first: true,
        })
    }

    /// Gets the permit to take leases on objects, once a guard is loaded.
    #[cfg(feature = "guard")]
    fn acquire_permit(&self) {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        if permit.is_none() {
            *permit = crate::protect::guard::Permit::acquire().unwrap_or_else(|error| {
                tracing::error!(%error, "the guard does not let the broker work");
                None
            });
        }
    }

    /// Opens a container as a guest, with the store of its filesystem.
    fn open(&self, root: &Root, name: &str) -> Result<Option<(Guest, OwnedFd)>, ConnectionError> {
        let Some(store) = self.stores.iter().find(|store| store.device == root.device) else {
            return Ok(None);
        };
        let guest = root.guest(OsStr::new(name), store)?;
        let directory = store
            .directory
            .try_clone()
            .map_err(ConnectionError::Receive)?;
        Ok(Some((guest, directory)))
    }
}

/// All processes of the host: nothing lists those that can have a descriptor of a container's file.
fn processes() -> Vec<i32> {
    procfs::processes().unwrap_or_default()
}
