//! One run on one store, phase by phase. Each phase is a value that the next one asks for:
//!
//! ```text
//! Hold ───▶ Prepared ──▶ Scanned ───▶ View, Groups ──▶ Done ───▶ RunReport
//! locked    index read,  guests       files that may   files     index
//!           objects seen walked       be the same      shared    written
//! ```
//!
//! Only a run that is no dry run gets a [`Target`] from its [`Hold`], and each phase that writes asks for it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use rustix::process::{Resource, getrlimit};
use vhashify_sys::call_error::Call as _;
use vhashify_sys::filesystem_kind::FilesystemKind;
use vhashify_sys::lease::ignore_break_signal;
use vhashify_sys::stamp::{Stamp, Timestamp};

use super::disk_reads::DiskReads;
use super::fd_budget::Workers;
use super::finish::{account_of, fill, finish};
use super::group;
use super::groups::{Group, bytes_of, candidates, warn_of_links};
use super::object::prove_unknown;
use super::objects::Objects;
use super::recover::recover;
use super::scope::{ReferenceMatch, Scope};
use super::source::Source;
use super::target::{Hold, Target, leftovers, lock};
use super::view::{Effort, Known, Question, View};
use super::workers::{Done, joined, work};
use crate::error::Error;
use crate::guest::{Guest, InodeUsers, StoreLocation};
use crate::identity::{Identity, Mtime};
use crate::index::{Index, IndexSnapshot};
use crate::outcome::{FileError, Progress, RunReport};
use crate::protect::{self, Mode, Sharing};
use crate::relink::orphans::orphans;
use crate::relink::work_directory::Leftovers;
use crate::scan::{KnownInodes, Request, Scan, scan};
use crate::store::{Announced, Store, StoreError, Wait, counts_on_guard};

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
    /// For how many days a reading of an object from the disk counts; 0 for none.
    pub reread_after: u32,
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
    let started = Instant::now();
    ignore_break_signal();
    let job = Job {
        location,
        sources,
        state_directory,
        options,
        progress,
    };
    let matching = ReferenceMatch::new(&options.scope, sources)?;
    let (mode, sharing) = choose_protection(options, location)?;
    let mut store = Store::open(location)?;
    refuse_unguarded(options.protect, mode, &store)?;
    let question = question(options, matching, &sharing, &store)?;
    let lock = lock(&store, options.wait, progress)?;
    let hold = if options.dry_run {
        Hold::to_look(lock)
    } else {
        Hold::to_change(&store, lock, sharing)?
    };
    let target = hold.target();
    let began = Timestamp::now();
    let mut report = account_of(sources, mode, options.dry_run, began);

    let prepared = prepare(&job, &question, &mut store, target)?;
    report.seconds.load = started.elapsed().as_secs_f64();

    let scanning = Instant::now();
    let mut scanned = walk_guests(&job, &question, &mut store, target, prepared)?;
    report.errors.append(&mut scanned.errors);
    report.seconds.scan = scanning.elapsed().as_secs_f64();

    let grouping = Instant::now();
    let workers = Workers::new(options.jobs, getrlimit(Resource::Nofile).current);
    group::sort(&mut scanned.scan.files, options.mtime);
    let known = Known {
        sources,
        store: &store,
        scan: scanned.scan,
        objects: scanned.objects,
        read: scanned.read,
        extents: scanned.extents,
        began,
        disk_reads: DiskReads::new(&store, mode, options.reread_after, began, scanned.index)?,
        hidden_links: OnceLock::new(),
    };
    let view = View {
        question: &question,
        known: &known,
        effort: &Effort { workers, progress },
    };
    let groups = candidates(view);
    warn_of_links(view);
    report.seconds.group = grouping.elapsed().as_secs_f64();

    let unifying = Instant::now();
    let done = carry_out(
        view,
        target,
        &groups,
        scanned.synchronised,
        scanned.announced,
    )?;
    report.seconds.unify = unifying.elapsed().as_secs_f64();

    fill(&mut report, &known.scan, &done.stats);
    report.seconds.total = started.elapsed().as_secs_f64();
    finish(known.disk_reads.take_index(), view, done, &mut report);
    report.seconds.total = started.elapsed().as_secs_f64();
    Ok(report)
}

/// What [`unify`] was asked.
struct Job<'a> {
    location: &'a StoreLocation,
    sources: &'a [Source],
    state_directory: &'a Path,
    options: &'a Options,
    progress: &'a dyn Progress,
}

/// The store and what earlier runs know of it.
struct Prepared {
    /// `None` for a dry run, which writes none, and where there is no index yet.
    index: Option<Index>,
    /// Whether an index is to be begun.
    is_index_new: bool,
    snapshot: IndexSnapshot,
    objects: Objects,
    /// Which files somebody uses by another way than by their names.
    users: InodeUsers,
}

/// The guests, walked. No interrupted run has left anything in them any more.
struct Scanned<'a> {
    index: Option<Index>,
    scan: Scan,
    objects: Objects,
    /// As [`Known::read`].
    read: HashMap<u64, (Stamp, Identity)>,
    /// As [`Known::extents`].
    extents: HashMap<u64, u64>,
    /// Set where the filesystem was synchronised meanwhile.
    synchronised: Option<Timestamp>,
    /// Set where names were replaced already, for an interrupted run. Brokers would have to walk their guests anew
    /// for nothing where no name is replaced.
    announced: Option<Announced<'a>>,
    /// What could not be recovered.
    errors: Vec<FileError>,
}

/// What guests are to share, and the mode that was chosen. For a dry run nothing is put in place.
fn choose_protection(
    options: &Options,
    location: &StoreLocation,
) -> Result<(Mode, Sharing), Error> {
    let choose = if options.dry_run {
        protect::probe
    } else {
        protect::enable
    };
    Ok(choose(options.protect, &location.path)?)
}

/// Refuses a store whose guests count on the guard where that does not hold, unless it was said that nothing shall
/// ([`Mode::None`]).
fn refuse_unguarded(asked: Mode, mode: Mode, store: &Store) -> Result<(), Error> {
    let is_sure = asked == Mode::None || mode == Mode::Lsm;
    if is_sure || !counts_on_guard(store.directory()) || protect::is_guarded(store.path()) {
        return Ok(());
    }
    let store = store.path().to_path_buf();
    Err(StoreError::Unguarded { store }.into())
}

/// The question that `options` put to a store.
fn question(
    options: &Options,
    matching: Option<ReferenceMatch>,
    sharing: &Sharing,
    store: &Store,
) -> Result<Question, Error> {
    Ok(Question {
        mtime: options.mtime,
        matching,
        smallest: options.smallest,
        reflink: sharing.reflink(),
        most_links: most_links(store)?,
    })
}

/// Reads the index and looks at the objects.
fn prepare(
    job: &Job<'_>,
    question: &Question,
    store: &mut Store,
    target: Option<Target<'_>>,
) -> Result<Prepared, Error> {
    job.progress.stage("load", None);
    let has_index = || Index::path(job.state_directory, store.path()).exists();
    // A new one holds nothing, and to make it waits for the disk: the next phase does that beside the walk.
    let is_index_new = target.is_some() && !has_index();
    let index = match &target {
        Some(target) if !is_index_new => Some(open_index(job, store, target)?),
        _ => None,
    };
    let snapshot = match &index {
        _ if job.options.refresh || is_index_new => IndexSnapshot::default(),
        Some(index) => index.load(),
        None => Index::peek(job.state_directory, store),
    };
    let objects = Objects::look(store, &snapshot.objects)?;
    let guests: Vec<&Guest> = job.sources.iter().map(|source| &source.guest).collect();
    // Whoever shares extents replaces no names.
    let users = match question.reflink {
        Some(_) => InodeUsers::default(),
        None => InodeUsers::look(&guests, &mut |line| job.progress.note(line)),
    };
    Ok(Prepared {
        index,
        is_index_new,
        snapshot,
        objects,
        users,
    })
}

/// Walks the guests; twice, where an interrupted run has left something in them.
fn walk_guests<'a>(
    job: &Job<'_>,
    question: &Question,
    store: &mut Store,
    target: Option<Target<'a>>,
    prepared: Prepared,
) -> Result<Scanned<'a>, Error> {
    job.progress.stage("scan", None);
    let Prepared {
        mut index,
        is_index_new,
        snapshot,
        mut objects,
        users,
    } = prepared;
    // Where there is no object yet, nearly every file is about to become one or to be replaced.
    let is_first = question.reflink.is_none() && objects.by_inode.is_empty();
    let locked: &Store = store;
    let left = target.map_or_else(
        || Ok(Leftovers::default()),
        |target| leftovers(store, &target),
    )?;
    let wanted = left.directories();
    let (mut scan, synchronised) = std::thread::scope(|scope| {
        let opening = target.filter(|_| is_index_new);
        let opening = opening.map(|target| scope.spawn(move || open_index(job, locked, &target)));
        let synchronising = target.filter(|_| is_first);
        let synchronising =
            synchronising.map(|target| scope.spawn(move || synchronise(locked, &target)));
        let scan = walk(job, question, &objects, &users, &wanted);
        if let Some(opening) = opening {
            index = Some(joined(opening)?);
        }
        Ok::<_, Error>((scan, synchronising.map(joined).transpose()?))
    })?;
    let (mut announced, mut errors) = (None, Vec::new());
    if let Some(target) = target
        && !(scan.leftovers.is_empty() && left.names.is_empty())
    {
        let guests: Vec<&Guest> = job.sources.iter().map(|source| &source.guest).collect();
        let listed = objects.by_inode.iter();
        let listed = listed.map(|(inode, state)| (*inode, state.name));
        let announced = announced.insert(target.announce());
        errors = recover(announced, target.work, &left, &guests, &scan, listed);
        objects = Objects::look(store, &snapshot.objects)?;
        scan = walk(job, question, &objects, &users, &[]);
    }
    if let Some(target) = target {
        target.work.tidy(left);
        errors.extend(abandoned(store));
    }
    // What the index says of each object stands in `objects`.
    let IndexSnapshot { read, extents, .. } = snapshot;
    Ok(Scanned {
        index,
        scan,
        objects,
        read,
        extents,
        synchronised,
        announced,
        errors,
    })
}

/// Names what killed runs have left beside stores that are gone: nobody else does.
fn abandoned(store: &Store) -> Vec<FileError> {
    let reason = "a killed run left files in it, and its store is not there any more; look at them, and remove it";
    let named = |path| FileError {
        path,
        reason: reason.to_owned(),
    };
    match orphans(store.directory()) {
        Ok(paths) => paths.into_iter().map(named).collect(),
        Err(failed) => vec![FileError::failed(failed, store.path().to_path_buf())],
    }
}

/// Does all groups; a dry run counts what it would do.
fn carry_out<'a>(
    view: View<'_>,
    target: Option<Target<'a>>,
    groups: &[Group],
    synchronised: Option<Timestamp>,
    mut announced: Option<Announced<'a>>,
) -> Result<Done, Error> {
    let Known { store, scan, .. } = view.known;
    let maker = target.filter(|_| view.question.reflink.is_none());
    let target = match maker {
        Some(maker) if !groups.is_empty() => {
            let synchronised = synchronised.map_or_else(|| synchronise(store, &maker), Ok)?;
            announced.get_or_insert_with(|| maker.announce());
            Some(Target {
                synchronised,
                ..maker
            })
        }
        _ => target,
    };
    let progress = view.effort.progress;
    progress.stage("unify", Some(bytes_of(scan, groups)));
    let mut done = work(view, target.as_ref(), groups);
    if let Some(maker) = maker
        && done.stats.fatal.is_none()
    {
        let proven = prove_unknown(view, &maker, &done.stats);
        done.stats.merge(proven);
    }
    drop(announced);
    Ok(done)
}

/// Writes to the disk what guests wrote so far, before the first name is replaced: after a power cut, a name that leads
/// to an object must lead to its bytes. What is changed from the returned time on may not be there.
fn synchronise(store: &Store, _target: &Target<'_>) -> Result<Timestamp, Error> {
    let begun = Timestamp::now();
    store.synchronise()?;
    Ok(begun)
}

/// Opens the index, or begins one.
fn open_index(job: &Job<'_>, store: &Store, _target: &Target<'_>) -> Result<Index, Error> {
    let warn = |warning: String| job.progress.note(&warning);
    Ok(Index::open(job.state_directory, store, warn)?)
}

fn walk(
    job: &Job<'_>,
    question: &Question,
    objects: &Objects,
    users: &InodeUsers,
    wanted: &[u64],
) -> Scan {
    let sources = job.sources.iter();
    let requests: Vec<Request<'_>> = sources
        .map(|Source { guest, rules }| Request { guest, rules })
        .collect();
    // Who has a name of an object now had one when it was looked at: only runs give objects to guests.
    let known = KnownInodes {
        device: job.location.device,
        stamp_of: &|inode| objects.of(inode).map(|state| state.stamp),
    };
    scan(
        &requests,
        question.smallest,
        Some(&known),
        users,
        wanted,
        job.progress,
    )
}

/// The most links that an inode can have, by filesystem.
///
/// # Errors
/// What `fstatfs(2)` lists.
fn most_links(store: &Store) -> Result<u64, Error> {
    let kind = FilesystemKind::of(store.directory()).call("fstatfs", store.path())?;
    Ok(match kind {
        // EXT4_LINK_MAX (fs/ext4/ext4.h) and BTRFS_LINK_MAX (fs/btrfs/btrfs_tree.h).
        FilesystemKind::Ext4 => 65_000,
        FilesystemKind::Btrfs => 65_535,
        // XFS_MAXLINK (fs/xfs/libxfs/xfs_format.h), and whoever has fewer answers EMLINK.
        _ => (1 << 31) - 1,
    })
}
