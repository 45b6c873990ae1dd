//! One run on one store, from the lock to the index.

use std::collections::HashMap;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use rustix::process::{Resource, getrlimit};
use vhashify_sys::lease::ignore_break_signal;
use vhashify_sys::shown::Shown;
use vhashify_sys::stamp::Timestamp;

use super::extents;
use super::fd_budget::Workers;
use super::group::{self, Key};
use super::index_update::index_update;
use super::object::prove_unknown;
use super::recover::recover;
use super::scope::{ReferenceMatch, Scope};
use super::share::has_candidates;
use super::shared::{ObjectState, Objects, Shared, Source, most_links};
use super::worker_stats::WorkerStats;
use super::workers::{Group, restore, work};
use crate::error::Error;
use crate::guest::{Guest, StoreLocation};
use crate::identity::Mtime;
use crate::index::{Index, IndexSnapshot};
use crate::outcome::{FileError, Progress, RunReport};
use crate::protect::{self, Mode};
use crate::relink::directory_times::DirectoryTimes;
use crate::scan::{FileRecord, KnownInodes, Request, Scan, scan};
use crate::store::{Store, StoreLock, Wait};

/// How a run is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    /// Change nothing and say what would be done.
    pub dry_run: bool,
    /// Which files may be shared with which.
    pub scope: Scope,
    /// Whether files that differ in mtime alone are the same.
    pub mtime: Mtime,
    /// Read every candidate and object again, whatever the index remembers.
    pub refresh: bool,
    /// Leave smaller files alone; bytes.
    pub smallest: u64,
    /// Count of threads that read and link, if the limit of open files suffices for them.
    pub jobs: usize,
    /// What to do while another run holds the store.
    pub wait: Wait,
    /// How shared inodes are protected.
    pub protect: Mode,
}

/// Unifies `sources`, which all belong to the store at `location`.
///
/// # Errors
/// What stops the run before anything was changed; a file that fails later is in the report.
pub fn unify(
    location: &StoreLocation,
    sources: &[Source],
    state_directory: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<RunReport, Error> {
    let began_at = Instant::now();
    ignore_break_signal();
    let matching = ReferenceMatch::new(&options.scope, sources)?;
    let protection = if options.dry_run {
        protect::foresee
    } else {
        protect::choose
    };
    let (mode, sharing) = protection(options.protect, &location.path)?;
    let mut store = Store::open(location)?;
    let lock = StoreLock::acquire(&store, options.wait, || {
        let path = Shown::path(store.path()).to_string();
        progress.note(&format!("waiting for another run on {path}"));
    })?;
    let began = Timestamp::now();
    let mut report = report_of(sources, options, mode, began);

    progress.stage("load", None);
    let open = |store: &Store| open_index(state_directory, store, options, progress);
    // A new one holds nothing, and to make it waits for the disk.
    let is_new = !options.dry_run && !Index::path(state_directory, store.path()).exists();
    let mut index = if is_new { None } else { open(&store)? };
    let mut loaded = match &index {
        _ if options.refresh || is_new => IndexSnapshot::default(),
        Some(index) => index.load(),
        None => Index::peek(state_directory, &store),
    };
    let mut objects = Objects::look(&mut store, &loaded.objects)?;
    report.seconds.load = began_at.elapsed().as_secs_f64();

    let scanning = Instant::now();
    progress.stage("scan", None);
    // Not where no name is replaced: brokers would have to walk their guests anew.
    let mut announced = None;
    let makes_objects = !options.dry_run && sharing.reflink().is_none();
    // Where there is no object yet, nearly every file is about to become one or to be replaced.
    let is_first = makes_objects && objects.by_inode.is_empty();
    let (mut scan, synchronised) = std::thread::scope(|scope| {
        let opening = is_new.then(|| scope.spawn(|| open(&store)));
        let synchronising = is_first.then(|| scope.spawn(|| synchronise(&store)));
        let scan = walk(location, sources, options, &objects, progress);
        if let Some(opening) = opening {
            index = joined(opening)?;
        }
        Ok::<_, Error>((scan, synchronising.map(joined).transpose()?))
    })?;
    if !options.dry_run && !scan.leftovers.is_empty() {
        announced = Some(lock.announce());
        report.errors.extend(mend(sources, &scan, &objects));
        objects = Objects::look(&mut store, &loaded.objects)?;
        scan = walk(location, sources, options, &objects, progress);
    }
    // What is known of each stands in `objects`.
    drop(mem::take(&mut loaded.objects));
    report.seconds.scan = scanning.elapsed().as_secs_f64();

    let grouping = Instant::now();
    let workers = Workers::new(options.jobs, getrlimit(Resource::Nofile).current);
    group::sort(&mut scan.files, options.mtime);
    let unseen = objects.unseen(&scan);
    let mut shared = Shared {
        store: &store,
        lock: &lock,
        protection: sharing.protection(),
        reflink: sharing.reflink(),
        scan: &scan,
        matching,
        mtime: options.mtime,
        dry_run: options.dry_run,
        budget: workers.budget,
        most_links: most_links(&store)?,
        synchronised: Timestamp::default(),
        progress,
        sources,
        objects,
        read: &loaded.read,
        extents: &loaded.extents,
        began,
        hidden_links: OnceLock::new(),
    };
    let unseen = by_key(&scan, unseen, options.mtime);
    let groups = candidates(&shared, &unseen);
    warn_of_links(&shared);
    report.seconds.group = grouping.elapsed().as_secs_f64();

    let unifying = Instant::now();
    if makes_objects && !groups.is_empty() {
        shared.synchronised = synchronised.map_or_else(|| synchronise(&store), Ok)?;
        announced.get_or_insert_with(|| lock.announce());
    }
    progress.stage("unify", Some(bytes_of(&scan, &groups)));
    let (mut stats, times) = work(&shared, &groups, workers.count);
    if makes_objects && stats.fatal.is_none() {
        stats.merge(prove_unknown(&shared, &stats));
    }
    drop(announced);
    report.seconds.unify = unifying.elapsed().as_secs_f64();

    fill(&mut report, &scan, &stats);
    report.seconds.total = began_at.elapsed().as_secs_f64();
    finish(index, times, &shared, stats, &mut report);
    report.seconds.total = began_at.elapsed().as_secs_f64();
    Ok(report)
}

/// The account of a run that has not done anything yet.
fn report_of(sources: &[Source], options: &Options, mode: Mode, began: Timestamp) -> RunReport {
    let name = |one: &Source| Shown::bytes(one.guest.name.as_bytes()).to_string();
    RunReport {
        began: began.seconds,
        dry_run: options.dry_run,
        protection: vec![mode.name()],
        guests: sources.iter().map(name).collect(),
        ..RunReport::default()
    }
}

/// Writes to the disk what guests wrote so far, before the first name is replaced: a name that leads to an
/// object must lead to its bytes after a power cut, too. What is changed from the returned time on may not be there.
fn synchronise(store: &Store) -> Result<Timestamp, Error> {
    let begun = Timestamp::now();
    store.synchronise().map(|()| begun)
}

/// What a thread came to; its panic goes on here.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The index; none for a dry run, which writes none.
fn open_index(
    state_directory: &Path,
    store: &Store,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Option<Index>, Error> {
    if options.dry_run {
        return Ok(None);
    }
    let warn = |warning: String| progress.note(&warning);
    Index::open(state_directory, store, warn).map(Some)
}

/// Tells the index, if there is one, while the times of directories are put back: it waits for the disk.
fn finish(
    index: Option<Index>,
    times: Option<DirectoryTimes>,
    shared: &Shared<'_>,
    stats: WorkerStats,
    report: &mut RunReport,
) {
    let with_new_mtime = stats.directories_with_new_mtime;
    let rest = std::thread::scope(|scope| {
        let restoring = times.map(|times| scope.spawn(|| restore(times, shared)));
        if let Some(index) = index {
            record(index, shared, stats, report);
        }
        restoring.map_or(0, joined)
    });
    warn_of_new_mtimes(with_new_mtime + rest, shared.progress);
}

/// Writes what the run learned into the index, and what it did.
fn record(index: Index, shared: &Shared<'_>, stats: WorkerStats, report: &mut RunReport) {
    let begun = Instant::now();
    let progress = shared.progress;
    progress.stage("index", None);
    let mut update = index_update(shared, stats);
    update.run = serde_json::to_string(report).ok();
    let path = index.file().to_path_buf();
    if let Err(error) = index.finish(shared.store, &update, |warning| progress.note(&warning)) {
        // The guests are as they should be; the next run takes longer, and that is all.
        let reason = error.to_string();
        report.errors.push(FileError { path, reason });
    }
    report.seconds.index = begun.elapsed().as_secs_f64();
}

/// Finishes or undoes what an interrupted run left.
fn mend(sources: &[Source], scan: &Scan, objects: &Objects) -> Vec<FileError> {
    let guests: Vec<&Guest> = sources.iter().map(|source| &source.guest).collect();
    let all = objects.by_inode.iter();
    recover(
        &guests,
        scan,
        all.map(|(inode, state)| (*inode, state.name)),
    )
}

fn walk(
    location: &StoreLocation,
    sources: &[Source],
    options: &Options,
    objects: &Objects,
    progress: &dyn Progress,
) -> Scan {
    let requests: Vec<Request<'_>> = sources
        .iter()
        .map(|source| Request {
            guest: &source.guest,
            rules: &source.rules,
        })
        .collect();
    // Who has a name of an object now had one when it was looked at: only runs give objects to guests.
    let known = KnownInodes {
        device: location.device,
        stamp_of: &|inode| objects.by_inode.get(&inode).map(|state| state.stamp),
    };
    scan(&requests, options.smallest, Some(&known), progress)
}

/// Objects without a file that could be linked to them are left out.
fn by_key(scan: &Scan, unseen: Vec<ObjectState>, mtime: Mtime) -> HashMap<Key, Vec<ObjectState>> {
    let mut keyed: HashMap<Key, Vec<ObjectState>> = HashMap::new();
    for state in unseen {
        if let Some(key) = Key::in_scan(scan, &state.stamp, mtime) {
            keyed.entry(key).or_default().push(state);
        }
    }
    keyed
}

fn candidates<'a>(
    shared: &Shared<'_>,
    unseen: &'a HashMap<Key, Vec<ObjectState>>,
) -> Vec<Group<'a>> {
    let files = &shared.scan.files;
    let mut groups: Vec<Group<'a>> = group::groups(files, shared.mtime)
        .filter_map(|range| {
            let key = Key::of(&files[range.start], shared.mtime);
            let unseen = unseen.get(&key).map_or(&[][..], Vec::as_slice);
            let of_group = &files[range.clone()];
            let is_worth_it = match shared.reflink {
                Some(_) => extents::has_candidates(shared, of_group),
                None => has_candidates(shared, of_group, !unseen.is_empty()),
            };
            is_worth_it.then_some(Group {
                files: range,
                unseen,
            })
        })
        .collect();
    // By directory, so that a worker finds the directories of the next group open.
    groups.sort_by_key(|group| files[group.files.start].directory);
    groups
}

fn bytes_of(scan: &Scan, groups: &[Group<'_>]) -> u64 {
    let files = groups
        .iter()
        .flat_map(|group| &scan.files[group.files.clone()]);
    files.map(FileRecord::size).sum()
}

/// Says that guests share inodes, where they are to share extents and an earlier run in another mode has let
/// them.
fn warn_of_links(shared: &Shared<'_>) {
    if shared.reflink.is_none() {
        return;
    }
    let files = shared.scan.files.iter();
    let links = files.filter(|file| shared.object_of(file.inode()).is_some());
    match links.count() {
        0 => {}
        count => shared.progress.note(&format!(
            "{count} files still are links to objects of earlier runs; `vhashify deunify GUEST` \
             gives a guest inodes of its own"
        )),
    }
}

/// Says how many directories could not be watched, if any.
fn warn_of_new_mtimes(with_new_mtime: u64, progress: &dyn Progress) {
    if with_new_mtime > 0 {
        progress.note(&format!(
            "{with_new_mtime} directories have a new mtime, because they could not be watched; raise \
             fs.inotify.max_user_watches and fs.inotify.max_user_instances (sysctl)"
        ));
    }
}

fn fill(report: &mut RunReport, scan: &Scan, stats: &WorkerStats) {
    report.counts = stats.counts;
    report.counts.files_scanned = scan.files_seen;
    report.counts.bytes_scanned = scan.bytes_seen;
    report.skipped.merge(&scan.skipped);
    report.skipped.merge(&stats.skipped);
    report.skipped_bytes.merge(&stats.skipped_bytes);
    report.errors.extend(scan.errors.iter().cloned());
    report.errors.extend(stats.errors.iter().cloned());
}
