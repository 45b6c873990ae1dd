//! Power cuts while runs, `deunify` and `gc` go on, and what the next run makes of what is left.
//!
//! A host is recorded on a [`Disk`] through several commands, while a process of its own
//! synchronises now this file, now everything, as guests do: without it a filesystem writes its
//! journal once in seconds, and few states would ever reach the disk. Then the power is cut at
//! moments of the recording, as often as wanted.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::disk::{Disk, Image, Recording};
use super::filesystem::Kind;
use super::moments::{
    after_recovery, at_any_moment, check_objects, equal_guests, is_reserved, snapshots,
};
use super::numbers::Numbers;
use super::program::Host;
use super::snapshot::{Snapshot, check_store, is_marked, paths};

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

/// One recorded host.
struct Story {
    recording: Recording,
    /// The first moment at which the guests are on the disk.
    begin: usize,
    /// The guests, which nothing is to change.
    guests: Vec<Snapshot>,
    /// The index after each command, and when that was.
    indexes: Vec<(usize, Vec<(PathBuf, Vec<u8>)>)>,
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
        let what = format!("{kind:?}, cut at {at} of {length}");
        let recovery = check(&mut disk, image, &story.guests, index, &what, &mut counts);

        if numbers.below(3) == 0 && counts.cuts < cuts {
            let at = numbers.position(recovery.len() + 1);
            let image = cut(&recovery, at, numbers);
            let what = format!("{what}, then at {at} of {}", recovery.len());
            counts.cuts_of_recovery += 1;
            check(&mut disk, image, &story.guests, None, &what, &mut counts);
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

/// What a guest's processes do that want to be sure of their files.
fn synchronise_at_random(host: &Host, mut numbers: Numbers, is_over: &AtomicBool) {
    let all: Vec<PathBuf> = host.guests.iter().flat_map(|guest| paths(guest)).collect();
    while !is_over.load(Ordering::Relaxed) {
        let path = &all[numbers.position(all.len())];
        if numbers.below(4) == 0 {
            synchronise(path);
        } else {
            File::open(path).unwrap().sync_all().unwrap();
        }
        std::thread::sleep(Duration::from_micros(numbers.below(4000)));
    }
}

/// Everything of a filesystem goes to the disk.
pub fn synchronise(path: &Path) {
    rustix::fs::syncfs(File::open(path).unwrap()).unwrap();
}

fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(directory).unwrap();
    files
        .map(|file| {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

/// Mounts what a power cut left, checks it, lets a run finish, checks that, and gives everything
/// back. Returns what the disk was told meanwhile.
fn check(
    disk: &mut Disk,
    image: Image,
    guests: &[Snapshot],
    index: Option<&[(PathBuf, Vec<u8>)]>,
    what: &str,
    counts: &mut Counts,
) -> Recording {
    disk.power_on(image);
    let host = Host::new(disk.path(), guests.len());
    let now = snapshots(&host);
    for (before, now) in guests.iter().zip(&now) {
        let when = format!("at once, {what}");
        at_any_moment(before).assert_same(&at_any_moment(now), &when);
        let leftovers = now.0.keys().filter(|path| is_reserved(path)).count();
        counts.leftovers += leftovers as u64;
    }
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
    assert_guests(&host, guests, &format!("after a run, {what}"));
    check_store(&host.store());
    host.call(["verify", "--deep"]);

    for guest in 0..host.guests.len() {
        host.deunify(guest, &[]);
    }
    host.call(["gc"]);
    assert_guests(&host, guests, &format!("after all was given back, {what}"));
    let left = check_store(&host.store());
    assert!(left.is_empty(), "{what}: gc left {left:?}");
    for path in host.guests.iter().flat_map(|guest| paths(guest)) {
        let is_file = path.is_file();
        assert!(!(is_file && is_marked(&path)), "{what}: {}", path.display());
    }
    // `gc` leaves the rows of what it removed to the next run.
    host.run(&[]);
    host.call(["verify", "--deep"]);
    counts.cuts += 1;
    disk.power_off()
}

fn assert_guests(host: &Host, guests: &[Snapshot], when: &str) {
    for (before, now) in guests.iter().zip(snapshots(host)) {
        after_recovery(before).assert_same(&after_recovery(&now), when);
    }
}
