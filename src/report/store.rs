//! Makes the report of a store and its guests (`vhashify report`).

use std::path::Path;

use serde::Serialize;
use vhashify_sys::overlap::stretches;

use super::guests::{GuestCost, StoreCost, correct_for_extent, costs};
use super::history::PastRun;
use super::objects::{ObjectCost, largest};
use super::old_copies::{OldCopies, old_copies};
use super::shared_extents;
use super::survey::Survey;
use super::unshared::{UnsharedCounts, unshared};
use crate::error::Error;
use crate::exclude::Rules;
use crate::guest::Guest;
use crate::index::Index;
use crate::outcome::{FileError, Progress};
use crate::scan::FileRecord;
use crate::store::Store;
use crate::unify::Source;

/// How many runs a report shows.
const RUNS: usize = 60;

/// How many objects a report shows.
const OBJECTS: usize = 20;

/// A store and the guests on its filesystem.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StoreReport {
    /// The store.
    pub store: StoreCost,
    /// Its guests.
    pub guests: Vec<GuestCost>,
    /// Why the kernel tells nothing about the page cache; `None` if it does.
    pub page_cache_unknown: Option<String>,
    /// The objects that save most.
    pub objects: Vec<ObjectCost>,
    /// Files that look alike but are not shared, by reason.
    pub unshared: UnsharedCounts,
    /// The last runs, the oldest first.
    pub runs: Vec<PastRun>,
    /// Replaced files that running processes still map.
    pub old_copies: OldCopies,
    /// Files and directories that could not be read.
    pub errors: Vec<FileError>,
}

/// Makes the report of `store` from the guests in `sources` and the index in `state_directory`. Changes nothing.
///
/// # Errors
/// The store cannot be listed.
pub fn store_report(
    store: &mut Store,
    sources: &[Source],
    state_directory: &Path,
    progress: &dyn Progress,
) -> Result<StoreReport, Error> {
    let guests: Vec<&Guest> = sources.iter().map(|source| &source.guest).collect();
    let rules: Vec<&Rules> = sources.iter().map(|source| &source.rules).collect();
    let survey = Survey::take(store, &guests, progress)?;
    progress.stage("report", None);
    let (mut cost, mut guest_costs) = costs(store, &survey);
    let mut errors = survey.errors().to_vec();
    if shared_extents::can_overlap(store) {
        progress.stage("extents", None);
        let private: Vec<&FileRecord> = survey
            .inodes
            .iter()
            .filter(|inode| !inode.is_object)
            .filter_map(|inode| survey.names(inode).first())
            .collect();
        let (spans, failed) = shared_extents::spans(&survey.scan, &guests, &private);
        stretches(&spans, |length, holders| {
            correct_for_extent(length, holders, &mut guest_costs, &mut cost);
        });
        errors.extend(failed);
    }
    let known = Index::peek(state_directory, store);
    let runs = Index::peek_runs(state_directory, store, RUNS);
    Ok(StoreReport {
        store: cost,
        guests: guest_costs,
        page_cache_unknown: survey.page_cache_unknown.clone(),
        objects: largest(&survey, OBJECTS),
        unshared: unshared(&survey, &rules, &known),
        runs: runs
            .iter()
            .filter_map(|(number, report)| PastRun::parse(*number, report))
            .collect(),
        old_copies: old_copies(&survey),
        errors,
    })
}
