//! `--protect lsm`: the mark of iunlink, enforced by the guard in the kernel.

use std::os::fd::BorrowedFd;
use std::path::Path;

use vhashify_sys::flags;

use super::{Missing, Protection, TurnsBack};

/// Marks files of a store on a guarded filesystem. Only [`enable`] makes this value, after it saw the guard refuse a
/// writer.
#[derive(Debug)]
pub struct Lsm {
    #[cfg(feature = "guard")]
    _permit: super::guard::Permit,
    #[cfg(feature = "guard")]
    displaced: super::guard::Displaced,
}

#[cfg(feature = "guard")]
impl TurnsBack for Lsm {
    fn turn_back(&self, displaced: BorrowedFd<'_>) -> rustix::io::Result<bool> {
        self.displaced.mark(displaced).map(|()| true)
    }

    fn let_in(&self, displaced: BorrowedFd<'_>) -> rustix::io::Result<()> {
        self.displaced.unmark(displaced)
    }
}

/// Without the feature nobody can make an [`Lsm`].
#[cfg(not(feature = "guard"))]
impl TurnsBack for Lsm {}

impl Protection for Lsm {
    fn is_enforced(&self) -> bool {
        true
    }

    fn needs_grace(&self) -> bool {
        false
    }

    fn protect(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()> {
        flags::mark(object)
    }

    fn release(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()> {
        flags::unmark(object)
    }
}

/// Loads the guard if it is not loaded, registers the store's filesystem, and tests the guard there on a nameless file.
///
/// # Errors
/// What is missing.
#[cfg(feature = "guard")]
pub fn enable(store: &Path) -> Result<Lsm, Missing> {
    use super::guard::{Displaced, Permit, load, register};
    use vhashify_sys::resolve;

    load()?;
    let directory = resolve::open_host_directory(store).map_err(Missing::StoreUnopened)?;
    register(&directory, store)?;
    let permit = Permit::acquire()?.ok_or(Missing::GuardUnloaded)?;
    refuses_a_writer(&directory)?;
    Ok(Lsm {
        _permit: permit,
        displaced: Displaced::open()?,
    })
}

/// Whether [`enable`] may succeed here. Loads nothing.
///
/// # Errors
/// What is missing.
#[cfg(feature = "guard")]
pub fn probe() -> Result<(), Missing> {
    Ok(super::guard::check_active()?)
}

/// Without the feature there is no guard.
///
/// # Errors
/// Always.
#[cfg(not(feature = "guard"))]
pub fn enable(_store: &Path) -> Result<Lsm, Missing> {
    Err(Missing::GuardNotBuilt)
}

/// Without the feature there is no guard.
///
/// # Errors
/// Always.
#[cfg(not(feature = "guard"))]
pub fn probe() -> Result<(), Missing> {
    Err(Missing::GuardNotBuilt)
}

/// Marks a nameless file in `directory`, and tests that the guard refuses to open it for writing.
#[cfg(feature = "guard")]
fn refuses_a_writer(directory: &std::os::fd::OwnedFd) -> Result<(), Missing> {
    use std::os::fd::AsFd;

    use rustix::fs::OFlags;
    use rustix::io::Errno;

    use vhashify_sys::tmpfile;

    let file = tmpfile::create(directory.as_fd()).map_err(Missing::NoFile)?;
    flags::mark(file.as_fd()).map_err(Missing::NoMark)?;
    match tmpfile::open_again(&file, OFlags::WRONLY) {
        Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(Missing::GuardUntried(errno)),
        Ok(_) => Err(Missing::LetsWriterThrough),
    }
}
