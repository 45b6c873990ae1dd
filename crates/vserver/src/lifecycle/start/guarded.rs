//! Starts no guest without the guard whose shared files count on it: after a change of the kernel, say, in which it cannot be
//! loaded, a write of this guest would be one in all.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use thiserror::Error;
use vhashify::guest::StoreLocation;
use vhashify::store::counts_on_guard;
use vhashify_config::{ConfigTree, GuestSettings};
use vhashify_sys::shown::Shown;

use super::super::LifecycleError;

/// Loads the guard where the guest shares files that were shared under it, and refuses to go on where that fails, unless
/// `apps/vunify/unguarded` says that somebody knows better.
///
/// # Errors
/// [`LifecycleError::Start`].
pub fn ensure_guard(tree: &ConfigTree, settings: &GuestSettings) -> Result<(), LifecycleError> {
    // A guest without `apps/vunify`, or whose store is gone, shares nothing by this configuration.
    let Ok(guest) = tree.guest(settings.name.as_ref()) else {
        return Ok(());
    };
    let Ok(vdir) = std::fs::metadata(&settings.vdir) else {
        return Ok(());
    };
    let store = guest.stores.iter().find(|store| store.device == vdir.dev());
    let Some(Ok(store)) = store.map(|store| StoreLocation::open(&store.directory)) else {
        return Ok(());
    };
    if !counts_on_guard(store.directory.as_fd()) {
        return Ok(());
    }
    let Err(why) = guard(&store) else {
        return Ok(());
    };
    if settings.may_be_unguarded() {
        tracing::warn!("{} starts without the guard: {why}", settings.name);
        return Ok(());
    }
    Err(LifecycleError::Start {
        name: settings.name.clone(),
        reason: format!(
            "files that it shares, in {}, are kept apart by the guard, which does not hold now: {why}; boot a kernel that \
             takes it, give the guests files of their own (vhashify deunify), or make {} to start it all the same",
            Shown::path(&store.path),
            Shown::path(&settings.directory.join("apps/vunify/unguarded"))
        ),
    })
}

/// Why the guard does not hold.
#[derive(Debug, Error)]
enum NotGuarded {
    #[cfg(feature = "guard")]
    #[error(transparent)]
    Guard(#[from] vhashify::protect::guard::GuardError),
    #[cfg(not(feature = "guard"))]
    #[error("this program was built without it")]
    NotBuilt,
}

/// Sees that the guard holds on the filesystem of this store.
#[cfg(feature = "guard")]
fn guard(store: &StoreLocation) -> Result<(), NotGuarded> {
    vhashify::protect::guard::load()?;
    vhashify::protect::guard::register(&store.directory, &store.path)?;
    Ok(())
}

#[cfg(not(feature = "guard"))]
fn guard(_store: &StoreLocation) -> Result<(), NotGuarded> {
    Err(NotGuarded::NotBuilt)
}
