//! A guest adds, removes, moves and replaces names while runs and `deunify` go on. What each path is to
//! read, and which paths are one file, is kept here as the guest sees it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vhashify_testkit::numbers::Numbers;
use vhashify_testkit::program::output;
use vhashify_testkit::snapshot::check_store;
use vhashify_testkit::tree::{Content, PLAIN, make_file};

use crate::attack::{Attack, Ends, Field};

pub const ATTACK: Attack = Attack {
    name: "inv3_names",
    invariants: &[1, 3],
    run,
};

const DIRECTORIES: u64 = 4;
const NAMES: u64 = 30;

/// Runs between two checks.
const IN_A_ROW: usize = 4;

fn run(field: &mut Field<'_>) {
    let host = field.host(3);
    let mut guests: Vec<Guest> = host
        .guests
        .iter()
        .map(|root| Guest {
            root,
            names: BTreeMap::new(),
            files: 0,
            changes: 0,
            numbers: Numbers::new(field.numbers.below(1 << 40)),
        })
        .collect();
    for guest in &mut guests {
        for _ in 0..NAMES {
            guest.make();
        }
    }
    while field.goes_on() {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = Ends(&is_over);
            for guest in &mut guests {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        guest.change();
                        let pause = guest.numbers.below(4000);
                        std::thread::sleep(Duration::from_micros(pause));
                    }
                });
            }
            for _ in 0..IN_A_ROW {
                let run = output(&mut host.run_command(&[]));
                assert!(matches!(run.status.code(), Some(0 | 1)), "{run:?}");
                if field.numbers.once_in(2) {
                    let guest = field.numbers.one_of(&host.guests).clone();
                    let mut deunify = host.command([
                        "deunify".into(),
                        "--manually".into(),
                        guest.into_os_string(),
                    ]);
                    let deunify = output(&mut deunify);
                    assert!(matches!(deunify.status.code(), Some(0 | 1)), "{deunify:?}");
                }
                field.tried("runs", 1);
            }
        });
        for guest in &mut guests {
            guest.check("while the guest changed names");
            field.tried("changes of names", std::mem::take(&mut guest.changes));
        }
        // What was skipped is noticed now, and nothing disturbs.
        host.run(&[]);
        for guest in &guests {
            guest.check("after a quiet run");
        }
        check_store(&host.store());
    }
    host.call(["verify", "--deep"]);
}

/// One guest as it sees itself.
struct Guest<'a> {
    root: &'a Path,
    /// Path → number of the file, and what it holds.
    names: BTreeMap<PathBuf, (u64, Content)>,
    files: u64,
    changes: u64,
    numbers: Numbers,
}

impl Guest<'_> {
    fn change(&mut self) {
        self.changes += 1;
        match self.numbers.below(5) {
            0 => self.make(),
            1 => self.add(),
            2 => self.remove(),
            3 => self.rename(),
            _ => self.replace(),
        }
    }

    /// Some path; whether it is free is another matter.
    fn path(&mut self) -> PathBuf {
        let directory = self.numbers.below(DIRECTORIES);
        let name = self.numbers.below(NAMES);
        self.root.join(format!("d{directory}/n{name}"))
    }

    fn taken(&mut self) -> Option<PathBuf> {
        let names: Vec<&PathBuf> = self.names.keys().collect();
        (!names.is_empty()).then(|| (*self.numbers.one_of(&names)).clone())
    }

    /// A new file that has twins in the other guests, and perhaps in this one.
    fn new_file(&mut self, path: &Path) -> (u64, Content) {
        let content = Content {
            size: 100 + self.numbers.below(10),
            variant: 0,
        };
        make_file(path, content, PLAIN);
        self.files += 1;
        (self.files, content)
    }

    fn make(&mut self) {
        let path = self.path();
        if !self.names.contains_key(&path) {
            let file = self.new_file(&path);
            self.names.insert(path, file);
        }
    }

    fn add(&mut self) {
        let (Some(old), new) = (self.taken(), self.path()) else {
            return;
        };
        if !self.names.contains_key(&new) {
            fs::create_dir_all(new.parent().unwrap()).unwrap();
            fs::hard_link(&old, &new).unwrap();
            self.names.insert(new, self.names[&old]);
        }
    }

    fn remove(&mut self) {
        if let Some(path) = self.taken().filter(|_| self.names.len() > 10) {
            fs::remove_file(&path).unwrap();
            self.names.remove(&path);
        }
    }

    fn rename(&mut self) {
        let (Some(old), new) = (self.taken(), self.path()) else {
            return;
        };
        let is_same = self
            .names
            .get(&new)
            .is_some_and(|file| file.0 == self.names[&old].0);
        // `rename` does nothing where both names are one file.
        if !is_same {
            fs::create_dir_all(new.parent().unwrap()).unwrap();
            fs::rename(&old, &new).unwrap();
            let file = self.names.remove(&old).unwrap();
            self.names.insert(new, file);
        }
    }

    fn replace(&mut self) {
        let Some(path) = self.taken() else { return };
        let new = self.root.join("new");
        let file = self.new_file(&new);
        fs::rename(new, &path).unwrap();
        self.names.insert(path, file);
    }

    /// Every name reads what it is to read, and two names are one file if and only if the guest
    /// made them so.
    fn check(&self, when: &str) {
        let mut inodes: BTreeMap<u64, u64> = BTreeMap::new();
        let mut files: BTreeMap<u64, u64> = BTreeMap::new();
        for (path, (file, content)) in &self.names {
            let found =
                fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(found, content.bytes(), "inv1: {} {when}", path.display());
            let inode = fs::metadata(path).unwrap().ino();
            let first = *inodes.entry(*file).or_insert(inode);
            assert_eq!(first, inode, "inv3: {} fell apart {when}", path.display());
            let first = *files.entry(inode).or_insert(*file);
            assert_eq!(first, *file, "inv3: {} is another's {when}", path.display());
        }
    }
}
