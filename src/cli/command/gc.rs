//! `vhashify gc`: removes objects that no guest uses any more.

use super::locked_store;
use crate::cli::args::Common;
use crate::cli::failure::Failure;
use crate::cli::print::print;
use crate::cli::progress::Bar;
use crate::cli::selection;
use crate::store::{GcReport, collect};

/// Collects in every store of the configuration, or in the one that was named.
pub fn gc(common: &Common, dry_run: bool, bar: &Bar) -> Result<u8, Failure> {
    let mut report = GcReport {
        dry_run,
        ..GcReport::default()
    };
    for location in selection::stores(common)? {
        let (store, lock) = locked_store(common, &location, bar)?;
        report = report.merged(collect(&store, &lock, dry_run)?);
    }
    Ok(print(common, &report, &report))
}
