//! `vhashify deunify`: gives a guest, or paths of it, its own copies back.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::wait;
use crate::cli::args::Common;
use crate::cli::failure::Failure;
use crate::cli::print::print;
use crate::cli::progress::Bar;
use crate::cli::selection;
use crate::unify::{self, DeunifyOptions};

/// Deunifies the files of `guest` at `paths`, or all of it where there are none.
pub fn deunify(
    common: &Common,
    guest: &OsStr,
    manually: bool,
    paths: &[PathBuf],
    dry_run: bool,
    bar: &Bar,
) -> Result<u8, Failure> {
    let selected = selection::one_guest(common, guest, manually)?;
    let source = &selected.sources[0];
    let options = DeunifyOptions {
        dry_run,
        wait: wait(common),
    };
    let report = unify::deunify(&selected.store, source, paths, options, bar)?;
    bar.clear();
    Ok(print(common, &report, &report))
}
