//! The index is damaged at random places, cut off, or of another day or store: never a wrong link, and
//! one slower run.

use std::fs;
use std::path::PathBuf;

use vhashify_testkit::moments::{assert_same, equal_guests, snapshots};
use vhashify_testkit::numbers::Numbers;
use vhashify_testkit::program::Host;
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, make_file};

use crate::attack::{Attack, Field};

pub const ATTACK: Attack = Attack {
    name: "inv7_damage",
    invariants: &[1, 3, 7],
    run,
};

fn run(field: &mut Field<'_>) {
    let host = field.host(3);
    equal_guests(&host, 60);
    let other = field.host(2);
    equal_guests(&other, 10);
    other.run(&[]);
    host.run(&[]);
    let mut old = fs::read(index(&host)).unwrap();
    let of_other = fs::read(index(&other)).unwrap();
    while field.goes_on() {
        let path = index(&host);
        let current = fs::read(&path).unwrap();
        let damaged = match field.numbers.below(8) {
            0 => old.clone(),
            1 => of_other.clone(),
            2 => current[..field.numbers.position(current.len())].to_vec(),
            3 => pages_of_another(current.clone(), &old, &mut field.numbers),
            _ => flipped(current.clone(), &mut field.numbers),
        };
        old = current;
        fs::write(&path, damaged).unwrap();
        // What the index says of these is not true any more, also where it is whole.
        let guest = field.numbers.position(3);
        if field.numbers.once_in(2) {
            host.deunify(guest, &[]);
        }
        restore(&host, guest, &mut field.numbers);
        let before = snapshots(&host);
        host.run(&[]);
        assert_same(&before, &host, "with a damaged index");
        check_store(&host.store());
        field.tried("damaged indexes", 1);

        host.run(&[]);
        assert_same(&before, &host, "with the index made anew");
        host.call(["verify", "--deep"]);
    }
}

/// The one index of a host.
fn index(host: &Host) -> PathBuf {
    let mut entries = fs::read_dir(host.state()).unwrap();
    entries
        .find_map(|entry| {
            let path = entry.unwrap().path();
            path.extension()
                .is_some_and(|end| end == "redb")
                .then_some(path)
        })
        .expect("an index")
}

/// A file of the same size and times with other content comes to where one was, as from a backup;
/// on some filesystems with the same inode number.
fn restore(host: &Host, guest: usize, numbers: &mut Numbers) {
    for _ in 0..numbers.below(8) {
        // Every third is a link group.
        let number = numbers.below(60);
        if number.is_multiple_of(3) {
            continue;
        }
        let path = host.guests[guest].join(format!("d{}/file{number}", number % 7));
        fs::remove_file(&path).unwrap();
        let content = Content {
            size: 500 + number,
            variant: u8::try_from(numbers.below(3)).unwrap(),
        };
        make_file(&path, content, PLAIN);
    }
}

fn flipped(mut bytes: Vec<u8>, numbers: &mut Numbers) -> Vec<u8> {
    for _ in 0..=numbers.below(200) {
        let at = numbers.position(bytes.len());
        bytes[at] ^= 1 << numbers.below(8);
    }
    bytes
}

/// Some pages are those of another moment: writes that never came to the disk.
fn pages_of_another(mut bytes: Vec<u8>, other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const PAGE: usize = 4096;
    let pages = bytes.len().min(other.len()) / PAGE;
    for page in 0..pages {
        if numbers.once_in(4) {
            let range = page * PAGE..(page + 1) * PAGE;
            bytes[range.clone()].copy_from_slice(&other[range]);
        }
    }
    bytes
}
