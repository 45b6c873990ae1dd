//! `vhashify verify`: checks stores, and mends them with `--repair`.

use super::locked_store;
use crate::cli::args::Common;
use crate::cli::failure::Failure;
use crate::cli::print::print;
use crate::cli::progress::Bar;
use crate::cli::selection;
use crate::index::Index;
use crate::outcome::Progress;
use crate::protect::MarkOnly;
use crate::verify::{Check, VerifyReport, verify};

/// Verifies every store of the configuration, or the one that was named.
pub fn verify_stores(common: &Common, check: Check, bar: &Bar) -> Result<u8, Failure> {
    let mut report = VerifyReport::default();
    for location in selection::stores(common)? {
        let (mut store, lock) = locked_store(common, &location, bar)?;
        let has_index = Index::path(&common.state_dir, store.path()).exists();
        let index = if has_index || check.repair {
            Some(Index::open(&common.state_dir, &store, |warning| {
                bar.note(&warning);
            })?)
        } else {
            None
        };
        report = report.merged(verify(&mut store, &lock, index, check, &MarkOnly, bar)?);
    }
    bar.clear();
    Ok(print(common, &report, &report))
}
