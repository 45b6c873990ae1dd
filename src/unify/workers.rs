//! The threads that share the groups of a run among them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use super::apply::Applier;
use super::extents;
use super::share::share;
use super::shared::{ObjectState, Shared};
use super::worker_stats::WorkerStats;
use crate::relink::directory_times::DirectoryTimes;

/// A group that has to be looked into.
#[derive(Debug)]
pub struct Group<'a> {
    /// Positions in the scan's files.
    pub files: Range<usize>,
    /// Objects that could be linked to these and that no scanned guest links.
    pub unseen: &'a [ObjectState],
}

/// Lets `workers` do all `groups`. The times of the directories that they changed last still have to be put
/// back: [`restore`].
pub fn work(
    shared: &Shared<'_>,
    groups: &[Group<'_>],
    workers: usize,
) -> (WorkerStats, Option<DirectoryTimes>) {
    let next = AtomicUsize::new(0);
    let mut all = WorkerStats::default();
    let mut last: Option<DirectoryTimes> = None;
    while next.load(Ordering::Relaxed) < groups.len() && all.fatal.is_none() {
        if let Some(times) = last {
            all.directories_with_new_mtime += restore(times, shared);
        }
        let times = DirectoryTimes::new();
        all.merge(work_together(shared, groups, &next, &times, workers));
        last = Some(times);
    }
    (all, last)
}

/// Puts back the mtime of the directories in which names were replaced. Returns how many keep a new one.
pub fn restore(times: DirectoryTimes, shared: &Shared<'_>) -> u64 {
    times.restore(|directory| shared.open(directory))
}

/// Does groups, by all workers, until there are none left or [`work_until_full`] ends.
fn work_together(
    shared: &Shared<'_>,
    groups: &[Group<'_>],
    next: &AtomicUsize,
    times: &DirectoryTimes,
    workers: usize,
) -> WorkerStats {
    let (is_over, is_done) = (AtomicBool::new(false), AtomicBool::new(false));
    let worker = || work_until_full(shared, groups, next, times, &is_over);
    std::thread::scope(|scope| {
        let listener = scope.spawn(|| times.listen(&is_done));
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let ended: Vec<_> = workers.into_iter().map(ScopedJoinHandle::join).collect();
        is_done.store(true, Ordering::Release);
        listener.thread().unpark();
        let mut all = WorkerStats::default();
        for stats in ended {
            all.merge(stats.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        all
    })
}

/// Does groups until there are none left, or until so many directories were changed that their
/// times have to be put back before the next one.
fn work_until_full(
    shared: &Shared<'_>,
    groups: &[Group<'_>],
    next: &AtomicUsize,
    times: &DirectoryTimes,
    is_over: &AtomicBool,
) -> WorkerStats {
    /// Groups that a worker takes at once: neighbours, which share directories.
    const BATCH: usize = 64;
    let mut stats = WorkerStats::default();
    let mut applier = Applier::new(shared, times);
    while !is_over.load(Ordering::Relaxed) && !times.is_full() {
        let start = next.fetch_add(BATCH, Ordering::Relaxed);
        let Some(batch) = groups.get(start..groups.len().min(start + BATCH)) else {
            break;
        };
        for group in batch {
            let unseen: Vec<&ObjectState> = group.unseen.iter().collect();
            let files = &shared.scan.files[group.files.clone()];
            match shared.reflink {
                Some(reflink) => {
                    let block_size = reflink.block_size;
                    extents::share(shared, block_size, files, &mut applier, &mut stats);
                }
                None => share(shared, files, &unseen, &mut applier, &mut stats),
            }
            if stats.fatal.is_some() {
                is_over.store(true, Ordering::Relaxed);
                break;
            }
        }
    }
    applier.finish_all(&mut stats);
    stats
}
