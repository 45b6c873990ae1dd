//! `vhashify GUEST…`: unifies guests.

use super::wait;
use crate::cli::args::{Common, How, Protect, RunArguments};
use crate::cli::failure::Failure;
use crate::cli::print::print;
use crate::cli::process::processors;
use crate::cli::progress::Bar;
use crate::cli::selection;
use crate::identity::Mtime;
use crate::outcome::{Progress, RunReport};
use crate::protect::Mode;
use crate::unify::{Options, Scope, Workers, unify};

/// Unifies the guests of each store in turn, and prints the sum of their reports.
pub fn run(common: &Common, typed: &RunArguments, bar: &Bar) -> Result<u8, Failure> {
    let chosen = selection::for_run(common, typed, bar)?;
    let how = &typed.how;
    let options = options(common, how, chosen.scope);
    let mut report = RunReport::default();
    for selected in chosen.selections {
        let part = unify(
            &selected.store,
            &selected.sources,
            &common.state_dir,
            &options,
            bar,
        )?;
        report.merge(part);
    }
    bar.clear();
    // Files that share only extents keep their own mtime.
    let shares_inodes = report.protection.iter().any(|&mode| mode != "reflink");
    if how.ignore_mtime && report.counts.files_unified > 0 && shares_inodes {
        bar.note("--ignore-mtime: unified files have the mtime of one of them");
    }
    Ok(print(common, &report, &report))
}

/// What `typed` means to the library.
fn options(common: &Common, typed: &How, scope: Scope) -> Options {
    Options {
        dry_run: typed.dry_run,
        scope,
        mtime: if typed.ignore_mtime {
            Mtime::Ignored
        } else {
            Mtime::Kept
        },
        refresh: typed.refresh,
        reread_after: typed.reread_after,
        smallest: typed.min_size,
        jobs: typed
            .jobs
            .map_or_else(|| Workers::for_processors(processors()), usize::from),
        wait: wait(common),
        protect: match typed.protect {
            Protect::Auto => Mode::Auto,
            Protect::Lsm => Mode::Lsm,
            Protect::Reflink => Mode::Reflink,
            Protect::Verity => Mode::Verity,
            Protect::None => Mode::None,
        },
    }
}
