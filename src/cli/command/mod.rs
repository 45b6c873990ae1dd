//! The commands: each resolves what was typed, calls the library, and prints what came of it.

mod deunify;
mod gc;
#[cfg(feature = "guard")]
mod guard;
mod report;
mod run;
mod verify;

use vhashify_sys::shown::Shown;

use super::args::{Arguments, Command, Common};
use super::failure::Failure;
use super::progress::Bar;
use crate::Error;
use crate::guest::StoreLocation;
use crate::outcome::Progress;
#[cfg(feature = "guard")]
use crate::protect::guard::Permit;
use crate::store::{Store, StoreLock, Wait};
use crate::verify::Check;

/// Does what was typed, and gives the exit status.
///
/// # Errors
/// Why nothing was done. Files that failed are in the result, which is printed.
pub fn carry_out(arguments: &Arguments, bar: &Bar) -> Result<u8, Failure> {
    // Without a permit, the guard refuses leases on objects to this process as to any other.
    #[cfg(feature = "guard")]
    let _permit = Permit::acquire()?;
    let common = &arguments.common;
    match &arguments.command {
        None => run::run(common, &arguments.run, bar),
        Some(Command::Gc { dry_run }) => gc::gc(common, *dry_run, bar),
        Some(Command::Verify { deep, repair }) => {
            let (deep, repair) = (*deep, *repair);
            verify::verify_stores(common, Check { deep, repair }, bar)
        }
        Some(Command::Deunify {
            manually,
            dry_run,
            guest,
            paths,
        }) => deunify::deunify(common, guest, *manually, paths, *dry_run, bar),
        Some(Command::Report { output }) => report::report(common, output.as_deref(), bar),
        #[cfg(feature = "guard")]
        Some(Command::Guard { command }) => guard::run(common, command),
    }
}

/// Opens and locks the store at `location`; `--no-wait` gives up where another run holds it.
fn locked_store(
    common: &Common,
    location: &StoreLocation,
    bar: &Bar,
) -> Result<(Store, StoreLock), Error> {
    let store = Store::open(location)?;
    let lock = StoreLock::acquire(&store, wait(common), || {
        bar.note(&format!(
            "waiting for another run on {}",
            Shown::path(store.path())
        ));
    })?;
    Ok((store, lock))
}

/// Whether to wait for another run.
fn wait(common: &Common) -> Wait {
    if common.no_wait {
        Wait::Never
    } else {
        Wait::Forever
    }
}
