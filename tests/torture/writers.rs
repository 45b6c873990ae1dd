//! Processes that write in every way that there is while runs go on back to back, each remembering
//! what it wrote.
//!
//! A writer does what an editor does with a file that it must not write to: a shared one is copied
//! first, and the copy is renamed over it. Where nothing protects shared files (`--protect none`) it
//! looks *after* it has opened the file, when no run can share it any more: what the lease promises is
//! that this order is enough. Where the guard does, the file cannot be opened.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vhashify_testkit::built::FAULTS;
use vhashify_testkit::filesystem::Filesystem;
use vhashify_testkit::mapping::Mapping;
use vhashify_testkit::numbers::Numbers;
use vhashify_testkit::program::{Host, is_guarded, output};
use vhashify_testkit::snapshot::is_object;
use vhashify_testkit::tree::{Content, PLAIN, make_file};

use crate::attack::{Attack, Ends, Field, scaled};

pub const ATTACK: Attack = Attack {
    name: "inv5_writers",
    invariants: &[1, 5],
    run,
};

const WRITERS_OF_A_GUEST: u64 = 12;

/// What is written at once; as long as each record.
const RECORD: usize = 32;

/// Writes that were made, and writes that were not found afterwards.
#[derive(Debug, Default)]
pub struct Writes {
    pub made: u64,
    pub lost: u64,
    pub runs: u64,
}

fn run(field: &mut Field<'_>) {
    let until = Instant::now() + field.turn;
    let writes = during_runs(field.filesystem, &mut field.numbers, until, "");
    field.tried("writes", writes.made);
    field.tried("runs", writes.runs);
    assert!(writes.made > 100, "{writes:?}");
    assert_eq!(writes.lost, 0, "writes were lost: {writes:?}");
}

/// Lets processes write while runs go on until `until`, with `faults` in the runs.
pub fn during_runs(
    filesystem: &Filesystem,
    numbers: &mut Numbers,
    until: Instant,
    faults: &str,
) -> Writes {
    let place = filesystem
        .path()
        .join(format!("writers{}", numbers.below(1 << 40)));
    let host = Host::new(&place, 2);
    let is_over = AtomicBool::new(false);
    let mut writes = Writes::default();
    std::thread::scope(|scope| {
        let ends = Ends(&is_over);
        let mut threads = Vec::new();
        for guest in &host.guests {
            for number in 0..scaled(WRITERS_OF_A_GUEST) {
                let this = Writer {
                    guest,
                    number,
                    numbers: Numbers::new(numbers.below(1 << 40)),
                    writes: Writes::default(),
                };
                threads.push(scope.spawn(|| this.write_until(&is_over)));
            }
        }
        while Instant::now() < until {
            let options: &[&str] = if numbers.once_in(2) {
                &["--refresh"]
            } else {
                &[]
            };
            let run = output(host.run_command(options).env(FAULTS, faults));
            // Nothing protects a shared file here, so that a run may find an object written to and
            // say so; what counts is what the writers find.
            assert!(matches!(run.status.code(), Some(0 | 1)), "{run:?}");
            writes.runs += 1;
        }
        drop(ends);
        for thread in threads {
            let one = thread.join().unwrap();
            writes.made += one.made;
            writes.lost += one.lost;
        }
    });
    fs::remove_dir_all(&place).unwrap();
    writes
}

/// One process of a guest, with files of its own that have twins in the other guest.
struct Writer<'a> {
    guest: &'a Path,
    number: u64,
    numbers: Numbers,
    writes: Writes,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    /// `write` with `O_APPEND`.
    Append,
    /// `pwrite` over what is there.
    Overwrite,
    /// Through a shared writable mapping.
    Map,
    /// `ftruncate`, then `write`.
    Truncate,
    /// `open`, `write`, `close`, again and again.
    Reopen,
    /// A new file renamed over the old one, again and again.
    Rename,
}

impl Writer<'_> {
    fn write_until(mut self, is_over: &AtomicBool) -> Writes {
        for round in 0_u64.. {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            self.round(round);
        }
        self.writes
    }

    /// Makes a file that has a twin in the other guest, writes to it a little later, and looks for
    /// what it wrote a little later than that.
    fn round(&mut self, round: u64) {
        let path = self
            .guest
            .join(format!("file{}-{}", self.number, round % 8));
        let content = Content {
            size: 4000 + round % 8,
            variant: 0,
        };
        self.rename_over(&path, &content.bytes());
        // So long that many a run has scanned the file, and is reading it or replacing its name,
        // when it is opened.
        self.pause(100_000);
        let way = *self.numbers.one_of(&[
            Way::Append,
            Way::Overwrite,
            Way::Map,
            Way::Truncate,
            Way::Reopen,
            Way::Rename,
        ]);
        let mut expected = content.bytes();
        let made = self.write(way, &path, &mut expected);
        self.pause(4000);
        let found = fs::read(&path).unwrap();
        self.writes.made += made;
        if found != expected {
            let same = found
                .iter()
                .zip(&expected)
                .filter(|(one, other)| one == other);
            let same = same.count();
            let lost = (expected.len() - same).div_ceil(RECORD) as u64;
            self.writes.lost += lost.clamp(1, made);
        }
    }

    /// Writes in one way, and does the same to `expected`. Returns how many writes it made.
    fn write(&mut self, way: Way, path: &Path, expected: &mut Vec<u8>) -> u64 {
        let records = 1 + self.numbers.below(2000);
        match way {
            Way::Append => {
                let mut file = self.open_private(path);
                file.seek(SeekFrom::End(0)).unwrap();
                self.pause(150_000);
                for number in 0..records {
                    let record = self.record(number);
                    file.write_all(&record).unwrap();
                    expected.extend(record);
                }
                records
            }
            Way::Overwrite => {
                let file = self.open_private(path);
                self.pause(150_000);
                for number in 0..records {
                    let (at, record) = (self.offset(expected), self.record(number));
                    file.write_all_at(&record, at as u64).unwrap();
                    expected[at..at + RECORD].copy_from_slice(&record);
                }
                records
            }
            Way::Map => {
                // The descriptor is closed at once: the mapping alone is to hold a run back.
                let mut mapping = Mapping::of(&self.open_private(path));
                self.pause(150_000);
                for number in 0..records {
                    let (at, record) = (self.offset(expected), self.record(number));
                    mapping.bytes()[at..at + RECORD].copy_from_slice(&record);
                    expected[at..at + RECORD].copy_from_slice(&record);
                }
                records
            }
            Way::Truncate => {
                let mut file = self.open_private(path);
                self.pause(150_000);
                let size = self.numbers.below(expected.len() as u64);
                file.set_len(size).unwrap();
                expected.truncate(usize::try_from(size).unwrap());
                self.pause(4000);
                file.seek(SeekFrom::End(0)).unwrap();
                let record = self.record(0);
                file.write_all(&record).unwrap();
                expected.extend(record);
                2
            }
            Way::Reopen => {
                let times = 1 + records / 100;
                for number in 0..times {
                    let mut file = self.open_private(path);
                    file.seek(SeekFrom::End(0)).unwrap();
                    let record = self.record(number);
                    file.write_all(&record).unwrap();
                    expected.extend(record);
                    drop(file);
                    self.pause(3000);
                }
                times
            }
            Way::Rename => {
                let times = 1 + records / 100;
                for number in 0..times {
                    let at = self.offset(expected);
                    expected[at..at + RECORD].copy_from_slice(&self.record(number));
                    self.rename_over(path, expected);
                    self.pause(3000);
                }
                times
            }
        }
    }

    /// Opens a file of the guest for reading and writing; a shared one is made private first.
    fn open_private(&self, path: &Path) -> File {
        loop {
            let opened = OpenOptions::new().read(true).write(true).open(path);
            match opened {
                Ok(file) if !is_object(&file) => return file,
                Err(error) if is_guarded() && error.raw_os_error() == Some(libc::EPERM) => {}
                opened => drop(opened.unwrap()),
            }
            self.rename_over(path, &fs::read(path).unwrap());
        }
    }

    /// Puts a new file in the place of `path`, made as its twin is.
    fn rename_over(&self, path: &Path, content: &[u8]) {
        let new = self.guest.join(format!("new{}", self.number));
        make_file(
            &new,
            Content {
                size: 0,
                variant: 0,
            },
            PLAIN,
        );
        let mut file = OpenOptions::new().write(true).open(&new).unwrap();
        file.write_all(content).unwrap();
        file.set_modified(PLAIN.modified()).unwrap();
        drop(file);
        fs::rename(new, path).unwrap();
    }

    /// 32 bytes that no other writer, and this one at no other time, writes.
    fn record(&mut self, number: u64) -> [u8; RECORD] {
        let text = format!("{}/{}", self.guest.display(), self.number);
        let mut hasher = blake3::Hasher::new();
        hasher.update(text.as_bytes());
        hasher.update(&number.to_le_bytes());
        hasher.update(&self.writes.made.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    fn offset(&mut self, expected: &[u8]) -> usize {
        let end = (expected.len() - RECORD) as u64;
        usize::try_from(self.numbers.below(end)).unwrap()
    }

    fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_micros(self.numbers.below(most)));
    }
}
