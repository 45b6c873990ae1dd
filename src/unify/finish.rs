//! The end of a run: its account, the index, and the times of the directories.

use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::Timestamp;

use super::index_update::index_update;
use super::source::Source;
use super::view::View;
use super::worker_stats::WorkerStats;
use super::workers::{Done, joined, restore};
use crate::index::Index;
use crate::outcome::{FileError, Progress, RunReport};
use crate::protect::Mode;
use crate::scan::Scan;

/// The account of a run that has not done anything yet.
#[must_use]
pub fn account_of(sources: &[Source], mode: Mode, dry_run: bool, began: Timestamp) -> RunReport {
    let name = |one: &Source| Shown::bytes(one.guest.name.as_bytes()).to_string();
    RunReport {
        began: began.seconds,
        dry_run,
        protection: vec![mode.name()],
        guests: sources.iter().map(name).collect(),
        ..RunReport::default()
    }
}

/// Fills in what the walk and the workers did.
pub fn fill(report: &mut RunReport, scan: &Scan, stats: &WorkerStats) {
    report.counts = stats.counts;
    report.counts.files_scanned = scan.files_seen;
    report.counts.bytes_scanned = scan.bytes_seen;
    report.skipped.merge(&scan.skipped);
    report.skipped.merge(&stats.skipped);
    report.skipped_bytes.merge(&stats.skipped_bytes);
    report.errors.extend(scan.errors.iter().cloned());
    report.errors.extend(stats.errors.iter().cloned());
}

/// Writes the index, if there is one, while the times of directories are put back: it waits for the disk.
pub fn finish(index: Option<Index>, view: View<'_>, done: Done, report: &mut RunReport) {
    let Done { stats, times } = done;
    let with_new_mtime = stats.directories_with_new_mtime;
    let rest = std::thread::scope(|scope| {
        let restoring = times.map(|times| scope.spawn(move || restore(times, view.known)));
        if let Some(index) = index {
            record(index, view, stats, report);
        }
        restoring.map_or(0, joined)
    });
    warn_of_new_mtimes(with_new_mtime + rest, view.effort.progress);
}

/// Writes what the run learned into the index, and its account.
fn record(index: Index, view: View<'_>, stats: WorkerStats, report: &mut RunReport) {
    let begun = Instant::now();
    let progress = view.effort.progress;
    progress.stage("index", None);
    let mut update = index_update(view.known, stats);
    update.run = serde_json::to_string(report).ok();
    let path = index.file().to_path_buf();
    let warn = |warning: String| progress.note(&warning);
    if let Err(error) = index.finish(view.known.store, &update, warn) {
        // The guests are as they should be; the next run takes longer, and that is all.
        let reason = error.to_string();
        report.errors.push(FileError { path, reason });
    }
    report.seconds.index = begun.elapsed().as_secs_f64();
}

/// Warns that directories have a new mtime, if any have.
fn warn_of_new_mtimes(directories: u64, progress: &dyn Progress) {
    if directories > 0 {
        progress.note(&format!(
            "{directories} directories have a new mtime, because they could not be watched; raise \
             fs.inotify.max_user_watches and fs.inotify.max_user_instances (sysctl)"
        ));
    }
}
