//! `--protect lsm`: the mark of iunlink, enforced by the guard in the kernel.

use std::os::fd::BorrowedFd;
use std::path::Path;

use vhashify_sys::flags;

use super::Protection;

/// Marks files of a store whose filesystem is guarded. Only [`enforce`] makes one, once it has seen
/// the guard refuse.
#[derive(Debug)]
pub struct Lsm {
    #[cfg(feature = "guard")]
    _permit: super::guard::Permit,
}

impl Protection for Lsm {
    fn is_enforced(&self) -> bool {
        true
    }

    fn protect(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()> {
        flags::mark(object)
    }

    fn release(&self, object: BorrowedFd<'_>) -> rustix::io::Result<()> {
        flags::unmark(object)
    }
}

/// Has the guard loaded, makes marks count on the store's filesystem and tries it there, on a file
/// without a name.
///
/// # Errors
/// A clause that says what is missing.
#[cfg(feature = "guard")]
pub fn enforce(store: &Path) -> Result<Lsm, String> {
    use super::guard::{Permit, load, register};
    use vhashify_sys::resolve;

    load().map_err(|error| error.to_string())?;
    let directory = resolve::open_host_directory(store)
        .map_err(|error| format!("the store cannot be opened: {error}"))?;
    register(&directory, store).map_err(|error| error.to_string())?;
    let permit = Permit::acquire().map_err(|error| error.to_string())?;
    let permit = permit.ok_or("somebody has just unloaded the guard")?;
    refuses_a_writer(&directory)?;
    Ok(Lsm { _permit: permit })
}

/// Whether [`enforce`] may work here; nothing is loaded.
///
/// # Errors
/// A clause that says what is missing.
#[cfg(feature = "guard")]
pub fn foresee() -> Result<(), String> {
    super::guard::check_active().map_err(|error| error.to_string())
}

#[cfg(not(feature = "guard"))]
const NO_GUARD: &str = "this vhashify was built without the guard";

/// Without the feature there is no guard.
///
/// # Errors
/// Always.
#[cfg(not(feature = "guard"))]
pub fn enforce(_store: &Path) -> Result<Lsm, String> {
    Err(NO_GUARD.to_owned())
}

/// Without the feature there is no guard.
///
/// # Errors
/// Always.
#[cfg(not(feature = "guard"))]
pub fn foresee() -> Result<(), String> {
    Err(NO_GUARD.to_owned())
}

#[cfg(feature = "guard")]
fn refuses_a_writer(directory: &std::os::fd::OwnedFd) -> Result<(), String> {
    use std::os::fd::AsFd;

    use rustix::fs::OFlags;
    use rustix::io::Errno;

    use vhashify_sys::tmpfile;

    let file = tmpfile::create(directory.as_fd())
        .map_err(|error| format!("the guard cannot be tried, the store takes no file: {error}"))?;
    flags::mark(file.as_fd())
        .map_err(|error| format!("the store's filesystem keeps no mark: {error}"))?;
    match tmpfile::open_again(&file, OFlags::WRONLY) {
        Err(Errno::PERM) => Ok(()),
        Err(error) => Err(format!("the guard cannot be tried: {error}")),
        Ok(_) => Err("the guard is loaded and lets a writer through".to_owned()),
    }
}
