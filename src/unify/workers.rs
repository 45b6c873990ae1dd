//! The threads that share the groups of a run among them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use super::apply::Applier;
use super::extents;
use super::groups::Group;
use super::reader::Reader;
use super::share::share;
use super::target::Target;
use super::view::{Known, View};
use super::worker_stats::WorkerStats;
use crate::relink::directory_times::DirectoryTimes;

/// What all workers did.
#[derive(Debug)]
pub struct Done {
    /// What was counted and learned.
    pub stats: WorkerStats,
    /// The times of the directories that were changed last, which still have to be put back: [`restore`].
    pub times: Option<DirectoryTimes>,
}

/// Lets the workers do all `groups`, or without a `target` count what there is to do.
#[must_use]
pub fn work(view: View<'_>, target: Option<&Target<'_>>, groups: &[Group]) -> Done {
    let next = AtomicUsize::new(0);
    let mut stats = WorkerStats::default();
    let mut last: Option<DirectoryTimes> = None;
    while next.load(Ordering::Relaxed) < groups.len() && stats.fatal.is_none() {
        if let Some(times) = last {
            stats.directories_with_new_mtime += restore(times, view.known);
        }
        let times = target.map(|target| DirectoryTimes::new(target.work));
        let round = Round {
            view,
            target: target.zip(times.as_ref()),
            groups,
            next: &next,
            is_over: AtomicBool::new(false),
        };
        stats.merge(round.work());
        last = times;
    }
    Done { stats, times: last }
}

/// Puts back the mtime of the directories in which names were replaced. Returns how many keep a new one.
pub fn restore(times: DirectoryTimes, known: &Known<'_>) -> u64 {
    times.restore(|directory| known.open(directory))
}

/// Groups that are done before the times of the changed directories have to be put back.
struct Round<'a> {
    view: View<'a>,
    /// Who may change what, and keeps the times of directories.
    target: Option<(&'a Target<'a>, &'a DirectoryTimes)>,
    groups: &'a [Group],
    /// The next group that no worker has taken.
    next: &'a AtomicUsize,
    /// Whether going on makes no sense.
    is_over: AtomicBool,
}

impl Round<'_> {
    /// Does groups, by all workers, until there are none left or [`Round::is_full`].
    fn work(&self) -> WorkerStats {
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let listener = self
                .target
                .map(|(_, times)| scope.spawn(|| times.listen(&is_done)));
            let workers: Vec<_> = (0..self.view.effort.workers.count)
                .map(|_| scope.spawn(|| self.work_alone()))
                .collect();
            let ended: Vec<_> = workers.into_iter().map(ScopedJoinHandle::join).collect();
            is_done.store(true, Ordering::Release);
            if let Some(listener) = listener {
                listener.thread().unpark();
            }
            let mut all = WorkerStats::default();
            for stats in ended {
                all.merge(stats.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            all
        })
    }

    /// One worker.
    fn work_alone(&self) -> WorkerStats {
        /// Groups that a worker takes at once: neighbours, which share directories.
        const BATCH: usize = 64;
        let mut stats = WorkerStats::default();
        let mut reader = Reader::new(self.view);
        let mut applier = self
            .target
            .map(|(target, times)| Applier::new(self.view, target, times));
        while !self.is_over.load(Ordering::Relaxed) && !self.is_full() {
            let start = self.next.fetch_add(BATCH, Ordering::Relaxed);
            let end = self.groups.len().min(start + BATCH);
            let Some(batch) = self.groups.get(start..end) else {
                break;
            };
            for group in batch {
                self.share(group, &mut reader, applier.as_mut(), &mut stats);
                if stats.fatal.is_some() {
                    self.is_over.store(true, Ordering::Relaxed);
                    break;
                }
            }
        }
        if let Some(applier) = &mut applier {
            applier.finish_all(&mut stats);
        }
        stats
    }

    fn share<'a>(
        &self,
        group: &Group,
        reader: &mut Reader<'a>,
        applier: Option<&mut Applier<'a>>,
        stats: &mut WorkerStats,
    ) {
        let files = &self.view.known.scan.files[group.files.clone()];
        match self.view.question.reflink {
            Some(reflink) => {
                let target = self.target.map(|(target, _)| target);
                extents::share(self.view, target, reflink.block_size, files, reader, stats);
            }
            None => share(self.view, files, &group.unseen, reader, applier, stats),
        }
    }

    /// Whether so many directories were changed that their times have to be put back before the next one.
    fn is_full(&self) -> bool {
        self.target.is_some_and(|(_, times)| times.is_full())
    }
}

/// What a thread came to; its panic goes on here.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
