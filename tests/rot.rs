//! Bytes that rot on the disk: the inode shows nothing, and a run must not give them to a further guest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde_json::Value;

use vhashify::index::rows;
use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each};
use vhashify_testkit::program::Host;
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, inode, make_file};

const DAY: i64 = 24 * 3600;

/// Several blocks, so that a part of it rots that no read of the beginning meets.
const GOOD: Content = Content {
    size: 20_000,
    variant: 0,
};

/// Without checksums of data. `metadata_csum` would cover no data either, but this is the plainest that there is.
fn plain_ext4() -> Filesystem {
    let filesystem = Filesystem::with_options(Kind::Ext4, 64 << 20, "");
    filesystem.while_unmounted(|image| {
        let mut make = Command::new("mkfs.ext4");
        let options = ["-q", "-F", "-b", "1024", "-O", "^metadata_csum"];
        command(make.args(options).arg(image));
    });
    filesystem
}

/// As that, but without direct reads: data go through the journal.
fn ext4_without_direct_reads() -> Filesystem {
    let filesystem = plain_ext4();
    filesystem.while_unmounted(|image| {
        command(
            Command::new("tune2fs")
                .args(["-o", "journal_data"])
                .arg(image),
        );
    });
    filesystem
}

/// Where on its filesystem's image a file has its last block.
fn last_block(path: &Path) -> u64 {
    File::open(path).unwrap().sync_all().unwrap();
    let said = command(Command::new("filefrag").args(["-v", "-b1"]).arg(path));
    // `0:        0..   20479:    8396800..   8417279:  20480:             last,eof`
    let mut extents = said.lines().filter(|line| line.contains(".."));
    let last = extents.next_back().unwrap();
    let physical = last.split(':').nth(2).unwrap();
    let end: u64 = physical.split("..").nth(1).unwrap().trim().parse().unwrap();
    end - 1023
}

/// Turns bits of the image in place.
fn rot(image: &Path, at: u64) {
    let image = File::options().read(true).write(true).open(image).unwrap();
    let mut bytes = [0; 4];
    image.read_exact_at(&mut bytes, at).unwrap();
    image.write_all_at(&bytes.map(|byte| !byte), at).unwrap();
    image.sync_all().unwrap();
}

fn is_good(path: &Path) -> bool {
    fs::read(path).unwrap() == GOOD.bytes()
}

/// Guests with the same file, of which the first two are unified.
struct Rotting {
    filesystem: Filesystem,
    host: Host,
}

impl Rotting {
    fn new(filesystem: Filesystem, guests: usize) -> Self {
        let host = Host::new(&filesystem.path().join("place"), guests);
        let this = Self { filesystem, host };
        for guest in 0..guests {
            make_file(&this.file(guest), GOOD, PLAIN);
        }
        this.first(2).run(&[]);
        assert_eq!(this.is_shared(), vec![true; 2]);
        this
    }

    /// The host with some of its guests.
    fn first(&self, count: usize) -> Host {
        let mut host = self.host.clone();
        host.guests.truncate(count);
        host
    }

    fn file(&self, guest: usize) -> PathBuf {
        self.host.guests[guest].join("file")
    }

    /// Which guests have the first one's inode, from the first to the last that has.
    fn is_shared(&self) -> Vec<bool> {
        let first = inode(&self.file(0));
        let guests = 0..self.host.guests.len();
        let shared = guests.map(|guest| inode(&self.file(guest)) == first);
        let mut shared: Vec<bool> = shared.collect();
        shared.truncate(shared.iter().rposition(|one| *one).unwrap() + 1);
        shared
    }

    /// Lets the first guest's file rot while nobody has the filesystem.
    fn rot(&self) {
        let at = last_block(&self.file(0));
        self.filesystem.while_unmounted(|image| rot(image, at));
        assert!(!is_good(&self.file(0)), "it rots");
    }

    /// A run over the first guests, which names the object as rotten and leaves the last guest's file as it is.
    fn refuses(&self, guests: usize, options: &[&str]) {
        let mut run = self.first(guests).run_command(options);
        let done = run.args(["--format", "json"]).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        let last = self.file(guests - 1);
        assert!(is_good(&last), "{said}");
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert_ne!(inode(&last), inode(&self.file(0)));
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        let errors = report["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{report}");
        let path = errors[0]["path"].as_str().unwrap();
        assert!(
            path.starts_with(self.host.store().to_str().unwrap()),
            "{path}"
        );
        let reason = errors[0]["reason"].as_str().unwrap();
        assert!(
            reason.contains("vhashify verify --deep --repair"),
            "{reason}"
        );
    }

    fn index(&self) -> PathBuf {
        let entries = fs::read_dir(self.host.state()).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths
            .find(|path| path.extension().is_some_and(|end| end == "redb"))
            .unwrap()
    }
}

/// What the index says of when objects were read.
const READS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("reads");

fn reads(index: &Path) -> BTreeMap<Vec<u8>, i64> {
    let database = Database::open(index).unwrap();
    let transaction = database.begin_read().unwrap();
    let table = match transaction.open_table(READS) {
        Err(TableError::TableDoesNotExist(_)) => return BTreeMap::new(),
        table => table.unwrap(),
    };
    let rows = table.iter().unwrap().map(|row| {
        let (key, value) = row.unwrap();
        let seconds = rows::unseal("reads", key.value(), value.value()).unwrap();
        (
            key.value().to_vec(),
            i64::from_le_bytes(seconds.try_into().unwrap()),
        )
    });
    rows.collect()
}

/// Lets the index say that all objects were read so many seconds later.
fn shift(index: &Path, seconds: i64) {
    let shifted = reads(index);
    let database = Database::open(index).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(READS).unwrap();
        for (key, when) in shifted {
            let value = (when + seconds).to_le_bytes().to_vec();
            table
                .insert(key.as_slice(), rows::seal("reads", &key, value).as_slice())
                .unwrap();
        }
    }
    transaction.commit().unwrap();
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

#[test]
fn inv1_inv7_no_guest_gets_an_object_that_rotted_on_the_disk() {
    for filesystem in [
        plain_ext4(),
        ext4_without_direct_reads(),
        Filesystem::new(Kind::Xfs),
    ] {
        let rotting = Rotting::new(filesystem, 3);
        rotting.rot();
        for _ in 0..2 {
            rotting.refuses(3, &[]);
        }
        // As the message says.
        let repaired = rotting.host.call(["verify", "--deep", "--repair"]);
        assert_eq!(repaired["objects_repaired"], 1, "{repaired}");
        rotting.host.run(&[]);
        assert!(is_good(&rotting.file(2)));
        check_store(&rotting.host.store());
    }
}

/// What guests read is in memory and good, as long as it stays there.
#[test]
fn inv1_inv7_what_the_page_cache_holds_proves_nothing_about_the_disk() {
    let rotting = Rotting::new(plain_ext4(), 3);
    let at = last_block(&rotting.file(0));
    let image = PathBuf::from(
        command(
            Command::new("findmnt")
                .args(["-nro", "SOURCE"])
                .arg(rotting.filesystem.path()),
        )
        .trim(),
    );
    assert!(is_good(&rotting.file(0)));
    // Past the cache of the device: straight into the file behind it.
    let behind = command(
        Command::new("losetup")
            .args(["-nO", "BACK-FILE"])
            .arg(&image),
    );
    rot(Path::new(behind.trim()), at);
    // Somebody has it mapped, as guests have their libraries.
    let file = File::open(rotting.file(0)).unwrap();
    // SAFETY: nobody writes to the file as long as the test maps it.
    #[allow(unsafe_code)]
    let mapping = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    assert_eq!(&*mapping, GOOD.bytes());
    rotting.refuses(3, &[]);
    assert!(
        is_good(&rotting.file(0)),
        "the run took nothing out of the page cache that guests use"
    );
    assert_eq!(&*mapping, GOOD.bytes());
}

#[test]
fn inv7_an_object_is_read_once_in_a_while_before_a_further_guest_gets_it() {
    let rotting = Rotting::new(plain_ext4(), 8);
    let index = rotting.index();
    let read_at = || -> Vec<i64> { reads(&index).into_values().collect() };
    // What a guest has just written may be in memory alone.
    assert!(read_at().is_empty());
    // No further guest, nothing read.
    rotting.first(2).run(&["--reread-after", "0"]);
    assert!(read_at().is_empty());
    let began = now();
    let is_now = |when: &[i64]| matches!(when, [when] if (began..=now()).contains(when));
    rotting.first(3).run(&[]);
    assert!(is_now(&read_at()), "{:?}", read_at());
    for (guests, ago, options, is_read) in [
        (4, 27 * DAY, &[][..], false),
        (5, 29 * DAY, &[], true),
        (6, 29 * DAY, &["--reread-after", "30"], false),
        (7, 0, &["--reread-after", "0"], true),
        // A clock was ahead.
        (8, -DAY, &[], true),
    ] {
        let when = read_at()[0];
        shift(&index, now() - ago - when);
        let before = read_at();
        rotting.first(guests).run(options);
        assert_eq!(rotting.is_shared().len(), guests);
        let after = read_at();
        let is_right = if is_read {
            is_now(&after)
        } else {
            after == before
        };
        assert!(is_right, "{guests} guests: {before:?} {after:?}");
    }
}

#[test]
fn inv7_a_deep_verification_counts_as_reading_and_a_rebuilt_index_as_none() {
    let rotting = Rotting::new(plain_ext4(), 4);
    let index = rotting.index();
    rotting.host.call(["verify"]);
    assert_eq!(reads(&index).len(), 0);
    let began = now();
    rotting.host.call(["verify", "--deep"]);
    let read: Vec<i64> = reads(&index).into_values().collect();
    assert!(
        matches!(read[..], [when] if (began..=now()).contains(&when)),
        "{read:?}"
    );
    // It is believed, and what is wrong with a row costs a reading.
    let before = reads(&index);
    rotting.first(3).run(&[]);
    assert_eq!(reads(&index), before);
    fs::remove_file(&index).unwrap();
    rotting.first(3).run(&[]);
    assert_eq!(reads(&index).len(), 0);
    rotting.rot();
    rotting.refuses(4, &[]);
}

#[test]
fn inv7_rows_about_objects_that_are_gone_go_with_them() {
    let rotting = Rotting::new(plain_ext4(), 3);
    let index = rotting.index();
    rotting.host.run(&[]);
    assert_eq!(reads(&index).len(), 1);
    for guest in 0..3 {
        fs::remove_file(rotting.file(guest)).unwrap();
    }
    rotting.host.call(["gc"]);
    rotting.host.run(&[]);
    assert_eq!(reads(&index).len(), 0);
    rotting.host.call(["verify"]);
}

/// Direct reads begin and end at blocks, and files do not.
#[test]
fn files_of_any_size_are_read_whole_from_the_disk() {
    const SIZES: [u64; 9] = [
        1,
        511,
        512,
        4095,
        4097,
        1 << 20,
        (1 << 20) + 1,
        (2 << 20) - 1,
        3 << 20,
    ];
    on_each(|filesystem| {
        let host = Host::new(filesystem.path(), 3);
        for (guest, size) in (0..3).flat_map(|guest| SIZES.map(|size| (guest, size))) {
            let path = host.guests[guest].join(size.to_string());
            make_file(&path, Content { size, variant: 0 }, PLAIN);
        }
        let mut two = host.clone();
        two.guests.truncate(2);
        assert_eq!(two.run(&[])["files_unified"], SIZES.len());
        assert_eq!(host.run(&[])["files_unified"], SIZES.len());
        let verified = host.call(["verify", "--deep"]);
        assert_eq!(verified["bytes_read"], SIZES.iter().sum::<u64>());
        check_store(&host.store());
    });
}

#[test]
fn a_filesystem_that_checks_content_itself_is_believed() {
    let rotting = Rotting::new(Filesystem::new(Kind::Btrfs), 3);
    rotting.host.run(&[]);
    assert_eq!(rotting.is_shared().len(), 3);
    assert_eq!(reads(&rotting.index()).len(), 0);
}
