//! Power cuts while runs, `deunify` and `gc` go on, and what the next run makes of what is left.
//!
//! A host is recorded on a [`Disk`] through several commands, while a process of its own
//! synchronises now this file, now everything, as guests do: without it a filesystem writes its
//! journal once in seconds, and few states would ever reach the disk. Then the power is cut at
//! moments of the recording, as often as wanted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::disk::{Disk, Image, Recording};
use super::filesystem::Kind;
use super::moments::{assert_recovered, at_any_moment, check_objects, equal_guests, snapshots};
use super::numbers::Numbers;
use super::program::{Host, output};
use super::snapshot::{Snapshot, check_store, is_marked, paths};
use super::tree::{Content, PLAIN, make_file};
use super::work::{assert_tidy, temporary_names};

const FILES: u64 = 24;

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Times that the power was cut, the file system mounted, and everything checked.
    pub cuts: u64,
    /// Those of them that cut the run off that was to mend what an earlier cut had left.
    pub cuts_of_recovery: u64,
    /// Those of them whose index came from a later moment than the guests.
    pub later_indexes: u64,
    /// Temporary names that were found after the cuts.
    pub leftovers: u64,
    /// Objects that were found after the cuts without their mark.
    pub unmarked: u64,
}

impl Counts {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            cuts: self.cuts + other.cuts,
            cuts_of_recovery: self.cuts_of_recovery + other.cuts_of_recovery,
            later_indexes: self.later_indexes + other.later_indexes,
            leftovers: self.leftovers + other.leftovers,
            unmarked: self.unmarked + other.unmarked,
        }
    }
}

/// The files of a state directory.
type StateFiles = Vec<(PathBuf, Vec<u8>)>;

/// One recorded host.
struct Story {
    recording: Recording,
    /// The first moment at which the guests are on the disk.
    begin: usize,
    /// The guests, which nothing is to change.
    guests: Vec<Snapshot>,
    /// The index after each command, and when that was.
    indexes: Vec<(usize, StateFiles)>,
}

/// What is known of a cut.
struct Cut<'a> {
    /// What the guests are to be.
    guests: &'a [Snapshot],
    /// The index, if it is not to be the one on the disk.
    index: Option<&'a [(PathBuf, Vec<u8>)]>,
    /// Whether all is given back in the end.
    is_given_back: bool,
    /// When and of what, for messages.
    what: String,
}

/// Records a host on a new filesystem and cuts its power `cuts` times.
///
/// # Panics
/// When an invariant does not hold.
pub fn cut_power(kind: Kind, numbers: &mut Numbers, cuts: u64) -> Counts {
    let mut counts = Counts::default();
    let mut disk = Disk::new(kind);
    let story = record(&mut disk, numbers);
    while counts.cuts < cuts {
        let length = story.recording.len();
        let at = story.begin + numbers.position(length + 1 - story.begin);
        let image = cut(&story.recording, at, numbers);
        let later = story.indexes.iter().filter(|(moment, _)| *moment > at);
        let later: Vec<_> = later.map(|(_, index)| index).collect();
        let index = (numbers.below(3) == 0 && !later.is_empty())
            .then(|| later[numbers.position(later.len())].as_slice());
        counts.later_indexes += u64::from(index.is_some());
        let first = Cut {
            guests: &story.guests,
            index,
            is_given_back: numbers.below(4) == 0,
            what: format!(
                "{kind:?}, cut at {at} of {length}, {}",
                if index.is_some() {
                    "index of a later moment"
                } else {
                    "index of the same disk"
                }
            ),
        };
        let recovery = check(&mut disk, image, &first, &mut counts);

        if numbers.below(3) == 0 && counts.cuts < cuts {
            let at = numbers.position(recovery.len() + 1);
            let image = cut(&recovery, at, numbers);
            let second = Cut {
                index: None,
                what: format!("{}, then at {at} of {}", first.what, recovery.len()),
                ..first
            };
            counts.cuts_of_recovery += 1;
            check(&mut disk, image, &second, &mut counts);
        }
    }
    counts
}

/// A cut that keeps none, all or some of what was written since the last flush.
fn cut(recording: &Recording, at: usize, numbers: &mut Numbers) -> Image {
    let of_four = [0, 4, 1, 2, 3][numbers.position(5)];
    recording.cut(at, || numbers.below(4) < of_four)
}

fn record(disk: &mut Disk, numbers: &mut Numbers) -> Story {
    let host = Host::new(disk.path(), 3);
    equal_guests(&host, FILES);
    let guests = snapshots(&host);
    synchronise(disk.path());
    let begin = disk.position();
    let mut indexes = Vec::new();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let of_guest = Numbers::new(numbers.below(u64::MAX) + 1);
        scope.spawn(|| synchronise_at_random(&host, of_guest, &is_over));
        for step in 0..6 {
            match step {
                2 => drop(host.deunify(1, &[])),
                4 => {
                    for guest in 0..3 {
                        host.deunify(guest, &[]);
                    }
                    host.call(["gc"]);
                }
                _ => drop(host.run(&[])),
            }
            indexes.push((disk.position(), contents(&host.state())));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    Story {
        recording: disk.power_off(),
        begin,
        guests,
        indexes,
    }
}

/// What is done while the power is cut, to files that may not be on the disk yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    /// A run shares files of one guest, which are on the disk, with files of two others that were
    /// written a moment ago. These have two names each, so that they become the objects.
    Originals,
    /// `deunify` puts copies in the place of files that are on the disk.
    Copies,
}

/// Cuts the power at `cuts` moments while `fresh` is done with `faults`, and counts the cuts that
/// took something of the guest whose files were on the disk.
pub fn cuts_that_lose(
    kind: Kind,
    fresh: Fresh,
    faults: &str,
    cuts: usize,
    numbers: &mut Numbers,
) -> usize {
    let mut disk = Disk::new(kind);
    let host = Host::new(disk.path(), 3);
    let safe = host.guests[1].clone();
    make_larger_files(&safe, 1);
    if fresh == Fresh::Copies {
        make_larger_files(&host.guests[0], 1);
        host.run(&[]);
    }
    let before = Snapshot::of(&safe);
    synchronise(disk.path());
    let begin = disk.position();
    let mut command = match fresh {
        Fresh::Originals => {
            make_larger_files(&host.guests[0], 2);
            make_larger_files(&host.guests[2], 2);
            host.run_command(&[])
        }
        Fresh::Copies => {
            let of_guest = ["deunify".as_ref(), "--manually".as_ref(), safe.as_os_str()];
            host.command(of_guest)
        }
    };
    while_journal_is_written(&host.place, command.env("VHASHIFY_FAULT", faults));
    let recording = disk.power_off();

    let mut lost = 0;
    for round in 0..cuts {
        let at = begin + (recording.len() - begin) * (round + 1) / cuts;
        disk.power_on(cut(&recording, at, numbers));
        let differences = at_any_moment(&before).differences(&at_any_moment(&Snapshot::of(&safe)));
        lost += usize::from(!differences.is_empty());
        disk.power_off();
    }
    lost
}

/// Files with `names` names each, too large to lie in the metadata of any filesystem.
fn make_larger_files(guest: &Path, names: u64) {
    for number in 0..FILES {
        let path = guest.join(format!("d/file{number}"));
        let content = Content {
            size: 10_000 + number,
            variant: 0,
        };
        make_file(&path, content, PLAIN);
        for name in 1..names {
            fs::hard_link(&path, guest.join(format!("d/name{number}-{name}"))).unwrap();
        }
    }
}

/// Runs a command to its end while a process writes a file and waits for it to be on the disk,
/// again and again, and a little longer: the journal goes there with all names, but the content of
/// other files does not.
fn while_journal_is_written(place: &Path, command: &mut Command) {
    let is_over = AtomicBool::new(false);
    let write = || {
        fs::write(place.join("other"), "once more").unwrap();
        synchronise_one(&place.join("other"));
        synchronise_one(place);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                write();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let done = output(command);
        assert!(done.status.success(), "{done:?}");
        is_over.store(true, Ordering::Relaxed);
    });
    write();
}

/// What processes of guests and of the host do that want to be sure of a file or directory.
fn synchronise_at_random(host: &Host, mut numbers: Numbers, is_over: &AtomicBool) {
    let guests: Vec<PathBuf> = host.guests.iter().flat_map(|guest| paths(guest)).collect();
    while !is_over.load(Ordering::Relaxed) {
        match numbers.below(4) {
            0 => synchronise(&host.place),
            1 => {
                let shards = fs::read_dir(host.store()).unwrap();
                let shards = shards.map(|shard| shard.unwrap().path());
                let all: Vec<PathBuf> = shards.chain([host.store()]).collect();
                synchronise_one(&all[numbers.position(all.len())]);
            }
            _ => synchronise_one(&guests[numbers.position(guests.len())]),
        }
        std::thread::sleep(Duration::from_micros(numbers.below(4000)));
    }
}

/// One file or directory goes to the disk, and what the filesystem cannot leave behind.
fn synchronise_one(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Everything of a filesystem goes to the disk.
pub fn synchronise(path: &Path) {
    rustix::fs::syncfs(File::open(path).unwrap()).unwrap();
}

fn contents(directory: &Path) -> StateFiles {
    let files = fs::read_dir(directory).unwrap();
    files
        .map(|file| {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

/// Mounts what a power cut left, checks it, lets a run finish, and checks that. Returns what the
/// disk was told meanwhile.
fn check(disk: &mut Disk, image: Image, cut: &Cut<'_>, counts: &mut Counts) -> Recording {
    let &Cut {
        guests,
        index,
        is_given_back,
        ref what,
    } = cut;
    let _what = SaidOnPanic(what);
    disk.power_on(image);
    let host = Host::new(disk.path(), guests.len());
    let now = snapshots(&host);
    for (before, now) in guests.iter().zip(&now) {
        let when = format!("at once, {what}");
        at_any_moment(before).assert_same(&at_any_moment(now), &when);
    }
    counts.leftovers += temporary_names(&host.store()).len() as u64;
    check_objects(&host.store());
    let store = paths(&host.store());
    let unmarked = |path: &&PathBuf| path.is_file() && !is_marked(path);
    counts.unmarked += store.iter().filter(unmarked).count() as u64;
    if let Some(files) = index {
        drop(fs::remove_dir_all(host.state()));
        fs::create_dir(host.state()).unwrap();
        for (path, bytes) in files {
            fs::write(path, bytes).unwrap();
        }
    }

    host.run(&[]);
    assert_recovered(guests, &host, &format!("after a run, {what}"));
    check_store(&host.store());
    assert_tidy(&host.store(), what);
    host.call(["verify", "--deep"]);
    counts.cuts += 1;
    if is_given_back {
        give_back(&host, guests, what);
    }
    disk.power_off()
}

/// Says what was being checked when a check fails that does not know it.
struct SaidOnPanic<'a>(&'a str);

impl Drop for SaidOnPanic<'_> {
    #[allow(clippy::print_stderr)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// Nothing stays of a store from which all guests get their own copies.
fn give_back(host: &Host, guests: &[Snapshot], what: &str) {
    for guest in 0..host.guests.len() {
        host.deunify(guest, &[]);
    }
    host.call(["gc"]);
    assert_recovered(guests, host, &format!("after all was given back, {what}"));
    let left = check_store(&host.store());
    assert!(left.is_empty(), "{what}: gc left {left:?}");
    for path in host.guests.iter().flat_map(|guest| paths(guest)) {
        let is_file = path.is_file();
        assert!(!(is_file && is_marked(&path)), "{what}: {}", path.display());
    }
    // `gc` leaves the rows of what it removed to the next run.
    host.run(&[]);
    host.call(["verify", "--deep"]);
}
