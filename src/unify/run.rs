//! One run on one store, from the lock to the index.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::apply::Applier;
use super::census::Census;
use super::directory_times::DirectoryTimes;
use super::group::{self, Key};
use super::object::learn_unknown;
use super::recover::recover;
use super::share::{guests_of, has_candidates, share};
use super::tally::Tally;
use crate::display::Shown;
use crate::error::{Call as _, Error};
use crate::exclude::Rules;
use crate::guest::{Guest, StoreLocation};
use crate::identity::{Identity, Mtime};
use crate::index::{self, GuestLinks, GuestRow, Index, Loaded, Update};
use crate::protect::{self, MarkOnly, Mode, Protection};
use crate::report::{FileError, Progress, RunReport};
use crate::scan::{FileRecord, GuestId, Request, Scan, scan};
use crate::store::{Listed, ObjectName, Store, StoreLock, Wait};
use crate::sys::beneath;
use crate::sys::fault::{self, Point};
use crate::sys::lease::ignore_break_signal;
use crate::sys::stamp::{Stamp, Timestamp};
use rustix::io::Errno;

/// How a run is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Change nothing and say what would be done.
    pub dry_run: bool,
    /// Whether files that differ in mtime alone are the same.
    pub mtime: Mtime,
    /// Read every candidate and object again, whatever the index remembers.
    pub refresh: bool,
    /// Leave smaller files alone; bytes.
    pub smallest: u64,
    /// Count of threads.
    pub jobs: usize,
    /// What to do while another run holds the store.
    pub wait: Wait,
    /// How shared inodes are protected.
    pub protect: Mode,
}

/// One guest that takes part.
#[derive(Debug)]
pub struct Source {
    /// The guest.
    pub guest: Guest,
    /// What of it is left out.
    pub rules: Rules,
}

/// An object as a run knows it.
#[derive(Debug, Clone, Copy)]
pub struct ObjectState {
    /// Its name.
    pub name: ObjectName,
    /// Its inode, as the index has it or as it was when the run began.
    pub stamp: Stamp,
    /// Its inode when its content was last known to be what the name says.
    pub proven: Option<Stamp>,
}

/// What all workers of a run look at.
pub struct Shared<'a> {
    /// The store.
    pub store: &'a Store,
    /// The right to change it.
    pub lock: &'a StoreLock,
    /// What objects are put under.
    pub protection: &'a dyn Protection,
    /// What was found in the guests.
    pub scan: &'a Scan,
    /// Whether mtime is part of the identity.
    pub mtime: Mtime,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
    /// The most links that an inode of this filesystem can have.
    pub most_links: u64,
    /// What was written before this is on the disk.
    pub synchronised: Timestamp,
    /// Who hears how far it is.
    pub progress: &'a dyn Progress,
    sources: &'a [Source],
    objects: HashMap<u64, ObjectState>,
    read: &'a HashMap<u64, (Stamp, Identity)>,
    began: Timestamp,
    census: OnceLock<Census>,
}

impl fmt::Debug for Shared<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Shared")
            .field("store", &self.store.path())
            .finish_non_exhaustive()
    }
}

impl Shared<'_> {
    /// One of the guests.
    #[must_use]
    pub fn guest(&self, guest: GuestId) -> &Guest {
        &self.sources[usize::from(guest)].guest
    }

    /// The object that an inode is, if it is one.
    #[must_use]
    pub fn object_of(&self, inode: u64) -> Option<&ObjectState> {
        self.objects.get(&inode)
    }

    /// Every object that the run knows.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectState> {
        self.objects.values()
    }

    /// A file's path on the host, for messages.
    #[must_use]
    pub fn host_path(&self, file: &FileRecord) -> PathBuf {
        self.guest(self.scan.guest_of(file.directory))
            .path_of(&self.scan.path_of(file))
    }

    /// Opens a directory that the scan found.
    ///
    /// # Errors
    /// As [`beneath::open_directory`].
    pub fn open(&self, directory: u32) -> Result<OwnedFd, Errno> {
        let guest = self.guest(self.scan.guest_of(directory));
        let path = self.scan.directory_path(directory);
        beneath::open_directory(guest.root.as_fd(), &path)
    }

    /// What an earlier run read in a file that has not changed since.
    #[must_use]
    pub fn remembered(&self, stamp: &Stamp) -> Option<Identity> {
        let (then, identity) = self.read.get(&stamp.inode)?;
        (then.is_unchanged_since(stamp) && identity.mtime == self.mtime).then_some(*identity)
    }

    /// Whether the next run may rely on what this one reads under `stamp`.
    #[must_use]
    pub fn may_be_remembered(&self, stamp: &Stamp) -> bool {
        index::may_be_remembered(stamp, self.began)
    }

    /// Who links objects in places that were not scanned; found out when first asked for.
    pub fn census(&self) -> &Census {
        self.census.get_or_init(|| {
            let guests: Vec<&Guest> = self.sources.iter().map(|source| &source.guest).collect();
            let wanted: HashSet<u64> = self.objects.keys().copied().collect();
            Census::take(&guests, &wanted)
        })
    }
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
    let protection: Box<dyn Protection> = match protect::choose(options.protect, &location.path) {
        // A dry run shares nothing that would have to be protected.
        Err(_) if options.dry_run => Box::new(MarkOnly),
        chosen => chosen?,
    };
    let mut store = Store::open(location)?;
    let lock = StoreLock::acquire(&store, options.wait, || {
        let path = Shown::path(store.path()).to_string();
        progress.note(&format!("waiting for another run on {path}"));
    })?;
    let began = Timestamp::now();
    let mut report = RunReport {
        dry_run: options.dry_run,
        ..RunReport::default()
    };
    report.guests = sources
        .iter()
        .map(|one| Shown::bytes(one.guest.name.as_bytes()).to_string())
        .collect();

    progress.stage("load", None);
    let index = if options.dry_run {
        None
    } else {
        Some(Index::open(state_directory, &store, |warning| {
            progress.note(&warning);
        })?)
    };
    let mut loaded = index
        .as_ref()
        .map_or_else(|| Index::peek(state_directory, &store), Index::load);
    if options.refresh {
        loaded = Loaded::default();
    }
    let (listed, _) = store.list()?;
    report.seconds.load = began_at.elapsed().as_secs_f64();

    let scanning = Instant::now();
    progress.stage("scan", None);
    let mut scan = walk(sources, options, progress);
    if !options.dry_run && !scan.leftovers.is_empty() {
        let guests: Vec<&Guest> = sources.iter().map(|source| &source.guest).collect();
        report.errors.extend(recover(&guests, &scan, &listed));
        scan = walk(sources, options, progress);
    }
    report.seconds.scan = scanning.elapsed().as_secs_f64();

    let grouping = Instant::now();
    group::sort(&mut scan.files, options.mtime);
    let (objects, unseen) = know_objects(&store, listed, loaded.objects, &scan);
    let mut shared = Shared {
        store: &store,
        lock: &lock,
        protection: &*protection,
        scan: &scan,
        mtime: options.mtime,
        dry_run: options.dry_run,
        most_links: most_links(&store)?,
        synchronised: Timestamp::default(),
        progress,
        sources,
        objects,
        read: &loaded.read,
        began,
        census: OnceLock::new(),
    };
    let unseen = by_key(unseen, options.mtime);
    let groups = candidates(&shared, &unseen);
    report.seconds.group = grouping.elapsed().as_secs_f64();

    let unifying = Instant::now();
    if !options.dry_run && !groups.is_empty() {
        // A name that leads to an object must lead to its bytes after a power cut, too: whatever
        // guests wrote so far goes to the disk before the first name is replaced.
        shared.synchronised = Timestamp::now();
        fault::at(Point::Sync, || rustix::fs::syncfs(store.directory()))
            .call("syncfs", store.path())?;
    }
    let bytes = groups
        .iter()
        .flat_map(|group| &scan.files[group.files.clone()]);
    progress.stage("unify", Some(bytes.map(|file| file.stamp.size).sum()));
    let mut tally = work(&shared, &groups, options.jobs);
    if !options.dry_run && tally.fatal.is_none() {
        tally.merge(learn_unknown(&shared, &tally));
    }
    tally.tell(progress);
    report.seconds.unify = unifying.elapsed().as_secs_f64();

    fill(&mut report, &scan, &tally);
    if let Some(index) = index {
        let indexing = Instant::now();
        progress.stage("index", None);
        report.seconds.total = began_at.elapsed().as_secs_f64();
        record(&index, learn(&shared, tally), &mut report);
        report.seconds.index = indexing.elapsed().as_secs_f64();
    }
    report.seconds.total = began_at.elapsed().as_secs_f64();
    Ok(report)
}

/// Writes what the run learned into the index, and what it did.
fn record(index: &Index, mut update: Update, report: &mut RunReport) {
    update.run = serde_json::to_string(report).ok();
    if let Err(error) = index.record(&update) {
        // The guests are as they should be; the next run takes longer, and that is all.
        let reason = error.to_string();
        report.errors.push(FileError {
            path: index.file().to_path_buf(),
            reason,
        });
    }
}

fn walk(sources: &[Source], options: &Options, progress: &dyn Progress) -> Scan {
    let requests: Vec<Request<'_>> = sources
        .iter()
        .map(|source| Request {
            guest: &source.guest,
            rules: &source.rules,
        })
        .collect();
    scan(&requests, options.smallest, progress)
}

/// Every object by its inode, and those that no scanned guest links.
fn know_objects(
    store: &Store,
    listed: Vec<Listed>,
    loaded: HashMap<ObjectName, Stamp>,
    scan: &Scan,
) -> (HashMap<u64, ObjectState>, Vec<ObjectState>) {
    let mut objects = HashMap::with_capacity(listed.len());
    for object in listed {
        let proven = loaded
            .get(&object.name)
            .filter(|stamp| stamp.inode == object.inode)
            .copied();
        // Of an object that no guest shows and no index knows, only its inode tells the key.
        let stamp = proven.unwrap_or(Stamp {
            inode: object.inode,
            ..Stamp::default()
        });
        objects.insert(
            object.inode,
            ObjectState {
                name: object.name,
                stamp,
                proven,
            },
        );
    }
    drop(loaded);
    let mut is_seen: HashSet<u64> = HashSet::with_capacity(objects.len());
    for file in &scan.files {
        if let Some(state) = objects.get_mut(&file.stamp.inode) {
            is_seen.insert(file.stamp.inode);
            state.stamp = file.stamp;
        }
    }
    let mut unseen = Vec::new();
    for state in objects
        .values_mut()
        .filter(|state| !is_seen.contains(&state.stamp.inode))
    {
        let looked = store
            .open_object(&state.name)
            .and_then(|file| Stamp::of(file.as_fd()));
        // Gone meanwhile: then it is no candidate.
        if let Ok(stamp) = looked {
            state.stamp = stamp;
            unseen.push(*state);
        }
    }
    (objects, unseen)
}

fn by_key(unseen: Vec<ObjectState>, mtime: Mtime) -> HashMap<Key, Vec<ObjectState>> {
    let mut keyed: HashMap<Key, Vec<ObjectState>> = HashMap::new();
    for state in unseen {
        keyed
            .entry(Key::of(&state.stamp, mtime))
            .or_default()
            .push(state);
    }
    keyed
}

/// A group that has to be looked into.
struct Group<'a> {
    files: Range<usize>,
    unseen: &'a [ObjectState],
}

fn candidates<'a>(
    shared: &Shared<'_>,
    unseen: &'a HashMap<Key, Vec<ObjectState>>,
) -> Vec<Group<'a>> {
    let files = &shared.scan.files;
    let mut groups: Vec<Group<'a>> = group::groups(files, shared.mtime)
        .filter_map(|range| {
            let key = Key::of(&files[range.start].stamp, shared.mtime);
            let unseen = unseen.get(&key).map_or(&[][..], Vec::as_slice);
            has_candidates(shared, &files[range.clone()], !unseen.is_empty()).then_some(Group {
                files: range,
                unseen,
            })
        })
        .collect();
    // By directory, so that a worker finds the directories of the next group open.
    groups.sort_by_key(|group| files[group.files.start].directory);
    groups
}

/// Lets `jobs` workers share the groups among them.
fn work(shared: &Shared<'_>, groups: &[Group<'_>], jobs: usize) -> Tally {
    let next = AtomicUsize::new(0);
    let mut all = Tally::default();
    while next.load(Ordering::Relaxed) < groups.len() && all.fatal.is_none() {
        let times = DirectoryTimes::new();
        let (is_over, is_done) = (AtomicBool::new(false), AtomicBool::new(false));
        let worker = || work_until_full(shared, groups, &next, &times, &is_over);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(worker)).collect();
            scope.spawn(|| times.listen(&is_done));
            for worker in workers {
                match worker.join() {
                    Ok(tally) => all.merge(tally),
                    Err(panic) => {
                        is_done.store(true, Ordering::Release);
                        std::panic::resume_unwind(panic);
                    }
                }
            }
            is_done.store(true, Ordering::Release);
        });
        all.directories_with_new_mtime += times.restore(|directory| shared.open(directory));
    }
    all
}

/// Does groups until there are none left, or until so many directories were changed that their
/// times have to be put back before the next one.
fn work_until_full(
    shared: &Shared<'_>,
    groups: &[Group<'_>],
    next: &AtomicUsize,
    times: &DirectoryTimes,
    is_over: &AtomicBool,
) -> Tally {
    /// Groups that a worker takes at once: neighbours, which share directories.
    const BATCH: usize = 64;
    let mut tally = Tally::default();
    let mut applier = Applier::new(shared, times);
    while !is_over.load(Ordering::Relaxed) && !times.is_full() {
        let start = next.fetch_add(BATCH, Ordering::Relaxed);
        let Some(batch) = groups.get(start..groups.len().min(start + BATCH)) else {
            break;
        };
        for group in batch {
            let unseen: Vec<&ObjectState> = group.unseen.iter().collect();
            let files = &shared.scan.files[group.files.clone()];
            share(shared, files, &unseen, &mut applier, &mut tally);
            if tally.fatal.is_some() {
                is_over.store(true, Ordering::Relaxed);
                break;
            }
        }
    }
    applier.finish_all(&mut tally);
    tally
}

fn fill(report: &mut RunReport, scan: &Scan, tally: &Tally) {
    report.files_scanned = scan.files_seen;
    report.bytes_scanned = scan.bytes_seen;
    report.files_hashed = tally.files_hashed;
    report.bytes_hashed = tally.bytes_hashed;
    report.files_unified = tally.files_unified;
    report.bytes_saved = tally.bytes_saved;
    report.disk_bytes_saved = tally.disk_bytes_saved;
    report.objects_created = tally.objects_created;
    report.skipped.merge(&scan.skipped);
    report.skipped.merge(&tally.skipped);
    report.errors.extend(scan.errors.iter().cloned());
    report.errors.extend(tally.errors.iter().cloned());
}

/// What the index is to know after this run.
fn learn(shared: &Shared<'_>, tally: Tally) -> Update {
    let mut update = Update {
        objects: proven_objects(shared, &tally),
        ..Update::default()
    };
    let links = links_by_guest(shared, &tally, &update.objects);
    update.guests = shared
        .sources
        .iter()
        .zip(links)
        .map(|(source, links)| (guest_row(&source.guest), links))
        .collect();
    let seen: HashMap<u64, Stamp> = shared
        .scan
        .files
        .iter()
        .filter(|file| shared.read.contains_key(&file.stamp.inode))
        .map(|file| (file.stamp.inode, file.stamp))
        .collect();
    for (inode, row) in shared.read {
        // Files of other guests are still theirs; of these, only what is unchanged.
        if seen
            .get(inode)
            .is_none_or(|stamp| row.0.is_unchanged_since(stamp))
        {
            update.read.insert(*inode, *row);
        }
    }
    update
        .read
        .retain(|inode, _| !shared.objects.contains_key(inode));
    update.read.extend(
        tally
            .read
            .into_iter()
            .map(|(stamp, identity)| (stamp.inode, (stamp, identity))),
    );
    update
}

/// The objects that are known to be what their names say, sorted by name.
fn proven_objects(shared: &Shared<'_>, tally: &Tally) -> Vec<(ObjectName, Stamp)> {
    let mut objects: Vec<(ObjectName, Stamp)> = tally
        .objects
        .iter()
        .map(|linked| (linked.name, linked.stamp))
        .collect();
    let before = shared.objects();
    objects.extend(before.filter_map(|state| Some((state.name, state.proven?))));
    // Of an object that was linked, what was seen after that counts: it stands first.
    objects.sort_by_key(|(name, _)| *name);
    objects.dedup_by_key(|(name, _)| *name);
    objects
}

/// Who links which of `objects`, for each guest, sorted by object.
fn links_by_guest(
    shared: &Shared<'_>,
    tally: &Tally,
    objects: &[(ObjectName, Stamp)],
) -> Vec<Vec<GuestLinks>> {
    let position = |name: &ObjectName| {
        let found = objects.binary_search_by_key(name, |(name, _)| *name);
        found.ok().and_then(|at| u32::try_from(at).ok())
    };
    let mut links: Vec<Vec<GuestLinks>> = vec![Vec::new(); shared.sources.len()];
    for names in group::inodes(&shared.scan.files) {
        let state = shared.object_of(names[0].stamp.inode);
        let Some(object) = state.and_then(|state| position(&state.name)) else {
            continue;
        };
        // Names of one guest are not always neighbours: they are sorted by directory.
        for (guest, count) in guests_of(shared, names) {
            let of_guest =
                |file: &&FileRecord| shared.scan.guest_of(file.directory) == guest && count > 1;
            let names = names.iter().filter(of_guest);
            links[usize::from(guest)].push(GuestLinks {
                object,
                count,
                names: names.map(|file| shared.scan.path_of(file)).collect(),
            });
        }
    }
    for linked in &tally.objects {
        let Some(object) = position(&linked.name) else {
            continue;
        };
        for &(guest, count) in &linked.guests {
            links[usize::from(guest)].push(GuestLinks {
                object,
                count,
                names: Box::default(),
            });
        }
    }
    for links in &mut links {
        links.sort_by_key(|row| row.object);
        links.dedup_by_key(|row| row.object);
    }
    links
}

/// How the index names a guest.
#[must_use]
pub fn guest_row(guest: &Guest) -> GuestRow {
    GuestRow {
        name: guest.name.clone().into_vec(),
        vdir: guest.vdir.clone().into_os_string().into_vec(),
    }
}

/// The most links that an inode can have, by filesystem.
fn most_links(store: &Store) -> Result<u64, Error> {
    const EXT4: u64 = 0xEF53;
    const BTRFS: u64 = 0x9123_683E;
    let found = rustix::fs::fstatfs(store.directory()).call("fstatfs", store.path())?;
    Ok(match u64::try_from(found.f_type).unwrap_or(0) {
        // EXT4_LINK_MAX (fs/ext4/ext4.h) and BTRFS_LINK_MAX (fs/btrfs/btrfs_tree.h).
        EXT4 => 65_000,
        BTRFS => 65_535,
        // XFS_MAXLINK (fs/xfs/libxfs/xfs_format.h), and whoever has fewer answers EMLINK.
        _ => (1 << 31) - 1,
    })
}
