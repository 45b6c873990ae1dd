//! What the parsers of hostile input promise, on the seeds of `fixtures/corpus` and on variations of them:
//! the same ones for everybody. `make fuzz` looks for new ones, guided by what they reach.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use vhashify_testkit::built;
use vhashify_testkit::numbers::Numbers;

#[path = "../fuzz/src/lib.rs"]
#[allow(clippy::expect_used, unsafe_code)] // fnmatch(3) is the oracle
mod targets;

/// How many variations of its seeds a target is given.
const VARIATIONS: u64 = 2000;

/// Bytes that say something in some format.
const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\n\t /*?[]\\!-:#+~%";

macro_rules! parsers {
    ($($target:ident),* $(,)?) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target), targets::$target::check);
        })*

        /// Seeds without a target would be tried by nobody.
        #[test]
        fn each_folder_of_seeds_has_its_target() {
            let corpus = built::repository().join("fixtures/corpus");
            let mut folders: Vec<_> = fs::read_dir(corpus)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            folders.sort();
            assert_eq!(folders, [$(stringify!($target)),*]);
        }
    };
}

parsers!(
    apk,
    dpkg,
    index_rows,
    object_names,
    pacman,
    patterns,
    rpm_bdb,
    rpm_header,
    rpm_ndb,
    rpm_sqlite,
    rpm_wal,
    rules,
);

fn replay(target: &str, check: fn(&[u8])) {
    let folder = built::repository().join("fixtures/corpus").join(target);
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let seeds: Vec<Vec<u8>> = names.iter().map(|seed| fs::read(seed).unwrap()).collect();
    let mut numbers = Numbers::new(1);
    let variations = (0..VARIATIONS).map(|_| variation(&seeds, &mut numbers));
    for input in [Vec::new()]
        .into_iter()
        .chain(seeds.clone())
        .chain(variations)
    {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&input))) {
            let place = built::scratch().join(format!("parser-{target}"));
            fs::write(&place, &input).unwrap();
            #[allow(clippy::print_stderr)]
            {
                eprintln!("the input is {}", place.display());
            }
            resume_unwind(panic);
        }
    }
}

/// A seed with one to four changes.
fn variation(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = numbers.one_of(seeds).clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.position(bytes.len() + 1);
        let end = (at + numbers.position(40)).min(bytes.len());
        match numbers.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            1 if at < bytes.len() => bytes[at] = *numbers.one_of(TELLING),
            2 => bytes.insert(at, *numbers.one_of(TELLING)),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            // Some of it once more, and the end of another seed.
            5 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let other = numbers.one_of(seeds);
                let from = numbers.position(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
        }
    }
    bytes
}
