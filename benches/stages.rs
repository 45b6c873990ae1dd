//! What each stage of a run costs on its own: scan, grouping, plan, digest, exclusion rules, index.
//!
//! Everything here is generated and small, so that a change of one stage shows in seconds; what a
//! whole run costs on real guests, and beside other tools, is measured by `peers.rs`.
//!
//!     cargo bench --bench stages -- scan
#![allow(clippy::expect_used)] // A stage that fails has no duration, and nobody to hand an error to.

use std::ffi::OsStr;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use tempfile::TempDir;
use vhashify::exclude::Rules;
use vhashify::guest::{Guest, InodeUsers, StoreLocation};
use vhashify::identity::{Digester, Identity, Mtime};
use vhashify::index::{GuestLinks, GuestRow, Index, Update};
use vhashify::outcome::Silent;
use vhashify::scan::{GuestId, Request, Scan, scan};
use vhashify::store::{ObjectName, Store};
use vhashify::unify::group;
use vhashify::unify::plan::{Instance, Member, plan};
use vhashify_sys::lease::LeasedFile;
use vhashify_sys::stamp::{Stamp, Timestamp};

const GUESTS: GuestId = 4;
const DIRECTORIES: u32 = 100;
const FILES_IN_DIRECTORY: u32 = 25;

/// Rows of each kind in the index.
const ROWS: u32 = 20_000;

/// More links than any plan here asks for.
const MOST_LINKS: u64 = 65_000;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    scan_and_group(&mut criterion);
    planning(&mut criterion);
    digesting(&mut criterion);
    deciding(&mut criterion);
    indexing(&mut criterion);
    criterion.final_summary();
}

/// The tree is cold only once; what is measured is the walk itself, not the disk.
fn scan_and_group(criterion: &mut Criterion) {
    let place = scratch();
    let guests: Vec<Guest> = (0..GUESTS)
        .map(|number| {
            let root = place.path().join(number.to_string());
            grow(&root);
            Guest::open(OsStr::new("guest"), &root).expect("the guest was just made")
        })
        .collect();
    let (everything, builtin) = (Rules::none(), Rules::builtin());
    let walk = |rules: &Rules| -> Scan {
        let requests: Vec<Request<'_>> = guests
            .iter()
            .map(|guest| Request { guest, rules })
            .collect();
        scan(&requests, 0, None, &InodeUsers::default(), &[], &Silent)
    };
    let found = walk(&everything);
    let files = u64::from(GUESTS) * u64::from(DIRECTORIES) * u64::from(FILES_IN_DIRECTORY);
    assert_eq!(found.files.len() as u64, files, "the tree that was grown");

    let mut stage = criterion.benchmark_group("scan");
    stage.throughput(Throughput::Elements(files));
    stage.bench_function("all", |bencher| bencher.iter(|| walk(&everything)));
    stage.bench_function("builtin rules", |bencher| bencher.iter(|| walk(&builtin)));
    stage.finish();

    let mut stage = criterion.benchmark_group("group");
    stage.throughput(Throughput::Elements(files));
    stage.bench_function("sort and cut", |bencher| {
        bencher.iter_batched_ref(
            || found.files.clone(),
            |files| {
                group::sort(files, Mtime::Kept);
                group::groups(files, Mtime::Kept).count()
            },
            BatchSize::LargeInput,
        );
    });
    stage.finish();
}

/// Sizes and names repeat from guest to guest, as they do in guests of one distribution.
fn grow(root: &Path) {
    for directory in 0..DIRECTORIES {
        let path = root.join(format!("usr/share/package-{}/{directory}", directory % 10));
        fs::create_dir_all(&path).expect("mkdir");
        for file in 0..FILES_IN_DIRECTORY {
            let content = vec![b'x'; 1 + (directory * FILES_IN_DIRECTORY + file) as usize % 997];
            fs::write(path.join(format!("some-file-{file}.dat")), content).expect("write");
        }
    }
}

fn planning(criterion: &mut Criterion) {
    let one_each: Vec<Member> = (0..12).map(member).collect();
    let many: Vec<Member> = (0..100).flat_map(|_| (0..12).map(member)).collect();
    let object = Instance {
        number: 0,
        guests: (0..11).collect(),
        links_left: MOST_LINKS,
    };
    let (no_object, one_object) = ([], [object]);
    let newcomer = [member(11)];
    let cases: [(&str, &[Instance], &[Member]); 3] = [
        ("one file in 12 guests", &no_object, &one_each),
        ("100 same files in 12 guests", &no_object, &many),
        ("a new guest beside 11", &one_object, &newcomer),
    ];
    let mut stage = criterion.benchmark_group("plan");
    for (name, instances, members) in cases {
        stage.throughput(Throughput::Elements(members.len() as u64));
        stage.bench_function(name, |bencher| {
            bencher.iter(|| plan(black_box(instances), black_box(members), MOST_LINKS));
        });
    }
    stage.finish();
}

fn member(guest: GuestId) -> Member {
    Member {
        guests: vec![(guest, 1)],
    }
}

/// One size on each side of every change of method: one block of BLAKE3, one buffer, a mapping.
fn digesting(criterion: &mut Criterion) {
    let place = scratch();
    let mut stage = criterion.benchmark_group("digest");
    for (name, size) in [
        ("1 KiB", 1_usize << 10),
        ("16 KiB", 16 << 10),
        ("256 KiB", 256 << 10),
        ("1 MiB less one byte", (1 << 20) - 1),
        ("1 MiB", 1 << 20),
        ("32 MiB", 32 << 20),
    ] {
        let path = place.path().join("content");
        let content: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        fs::write(&path, content).expect("write");
        let file = fs::File::open(&path).expect("open");
        let leased = LeasedFile::acquire(file.into()).expect("nobody writes to it any more");
        let size = size as u64;
        stage.throughput(Throughput::Bytes(size));
        stage.bench_function(name, |bencher| {
            // Each a new one, because a file that comes twice is not digested twice.
            bencher.iter_batched_ref(
                Digester::default,
                |digester| digester.digest(&leased, size).expect("it is readable"),
                BatchSize::SmallInput,
            );
        });
        let mut digester = Digester::default();
        stage.bench_function(format!("{name}, again"), |bencher| {
            bencher.iter(|| digester.digest(&leased, size).expect("it is readable"));
        });
    }
    stage.finish();
}

fn deciding(criterion: &mut Criterion) {
    let paths: Vec<String> = (0..1000)
        .map(|number| match number % 10 {
            0 => format!("/etc/package-{number}/settings.conf"),
            1 => format!("/var/lib/dpkg/info/package-{number}.list"),
            2 => format!("/usr/lib/x86_64-linux-gnu/libsomething-{number}.so.1.2.{number}"),
            3 => format!("/usr/bin/program-{number}"),
            _ => format!("/usr/share/doc/package-{number}/examples/file-{number}.gz"),
        })
        .collect();
    let configuration =
        (0..2000).map(|number| format!("/etc/package-{number}/settings.conf").into_bytes());
    let mut stage = criterion.benchmark_group("rules");
    stage.throughput(Throughput::Elements(paths.len() as u64));
    for (name, rules) in [
        ("none", Rules::none()),
        ("builtin", Rules::builtin()),
        (
            "builtin and 2,000 configuration files",
            Rules::builtin().with_files_first(configuration),
        ),
    ] {
        stage.bench_function(name, |bencher| {
            bencher.iter(|| {
                paths
                    .iter()
                    .map(|path| rules.decide(path.as_bytes(), false))
                    .map(|verdict| black_box(verdict) as usize)
                    .sum::<usize>()
            });
        });
    }
    stage.finish();
}

/// Reading the index, and the writing of a run that learned nothing.
fn indexing(criterion: &mut Criterion) {
    let place = scratch();
    let directory = place.path().join("store");
    fs::create_dir(&directory).expect("mkdir");
    let location = StoreLocation::open(&directory).expect("the store was just made");
    let store = Store::open(&location).expect("an empty store");
    let beside = place.path().join("state");
    let index = Index::open(&beside, &store, drop).expect("a new index");
    let update = update();
    index.record(&update).expect("there is room for it");

    let mut stage = criterion.benchmark_group("index");
    stage.throughput(Throughput::Elements(2 * u64::from(ROWS)));
    stage.bench_function("load", |bencher| bencher.iter(|| index.load()));
    stage.bench_function("record, nothing new", |bencher| {
        bencher.iter(|| index.record(&update).expect("there is room for it"));
    });
    stage.finish();
}

/// Objects that three guests link, and as many private files.
fn update() -> Update {
    let mut objects: Vec<(ObjectName, Stamp)> = (0..ROWS)
        .map(|number| {
            let identity = identity_of(number);
            let name = ObjectName {
                identity,
                instance: 0,
            };
            (name, stamp(number))
        })
        .collect();
    objects.sort_unstable_by_key(|(name, _)| *name);
    let read = (ROWS..2 * ROWS)
        .map(|number| (u64::from(number), (stamp(number), identity_of(number))))
        .collect();
    let guests = (0..3)
        .map(|guest| {
            let row = GuestRow {
                name: format!("guest-{guest}").into_bytes(),
                vdir: format!("/vservers/guest-{guest}").into_bytes(),
            };
            let links = (0..ROWS).map(|object| GuestLinks {
                object,
                count: 1,
                names: Box::default(),
            });
            (row, links.collect())
        })
        .collect();
    Update {
        objects,
        read,
        guests,
        ..Update::default()
    }
}

fn identity_of(number: u32) -> Identity {
    let digest = *blake3::hash(&number.to_le_bytes()).as_bytes();
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&digest[..16]);
    Identity {
        digest,
        fingerprint,
        mtime: Mtime::Kept,
    }
}

fn stamp(number: u32) -> Stamp {
    Stamp {
        inode: number.into(),
        size: 4096,
        allocated: 4096,
        mtime: Timestamp {
            seconds: number.into(),
            nanoseconds: 0,
        },
        ctime: Timestamp::default(),
        mode: 0o100_644,
        link_count: 4,
        owner: 0,
        group: 0,
    }
}

/// Below the build directory: what is measured is the machine's own filesystem, and `cargo clean`
/// takes away what a killed run leaves.
fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("stages-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("the build directory is writable")
}
