//! What an attack is, and the account of what was tried.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use vhashify_testkit::filesystem::Filesystem;
use vhashify_testkit::numbers::Numbers;
use vhashify_testkit::program::{Host, is_guarded};

/// Something that is tried again and again, and panics as soon as an invariant does not hold.
pub struct Attack {
    /// `inv5_writers`.
    pub name: &'static str,
    /// The numbers of the invariants that it checks.
    pub invariants: &'static [usize],
    /// Tries it as long as the field goes on.
    pub run: fn(&mut Field<'_>),
}

/// Where and how long.
pub struct Field<'a> {
    pub filesystem: &'a Filesystem,
    pub numbers: Numbers,
    /// How long it is to be tried.
    pub turn: Duration,
    pub deadline: OnceLock<Instant>,
    pub tried: &'a Tried,
    pub attack: &'a Attack,
}

impl Field<'_> {
    /// Whether there is time for another round. The time begins when this is asked first, so that no
    /// machine is too slow for one round.
    pub fn goes_on(&self) -> bool {
        Instant::now() < self.deadline()
    }

    fn deadline(&self) -> Instant {
        *self.deadline.get_or_init(|| Instant::now() + self.turn)
    }

    /// A host with `guests` empty guests in a directory of its own.
    pub fn host(&self, guests: usize) -> Host {
        Host::new(&self.place(), guests)
    }

    /// A directory that does not exist yet.
    pub fn place(&self) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        self.filesystem.path().join(format!("round{number}"))
    }

    /// Says that `count` of `what` were tried.
    pub fn tried(&self, what: &'static str, count: u64) {
        self.tried.add(self.attack.invariants, what, count);
    }
}

/// How many of something an attack takes: fewer where it is tried with the guard, in machines whose
/// every instruction is emulated.
pub fn scaled(count: u64) -> u64 {
    if is_guarded() {
        count.div_ceil(5)
    } else {
        count
    }
}

/// Says that an attack is over when it is dropped, also by a panic: threads that wait for it would
/// otherwise hold the program for ever.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const INVARIANTS: [&str; 8] = [
    "",
    "content",
    "metadata",
    "identity in a guest",
    "isolation",
    "no lost write",
    "atomicity",
    "store",
];

/// Counts by invariant.
#[derive(Debug, Default)]
pub struct Tried(Mutex<[Line; INVARIANTS.len()]>);

#[derive(Debug, Default)]
struct Line {
    tried: BTreeMap<&'static str, u64>,
    failures: u64,
}

impl Tried {
    /// Says that `count` of `what` were tried on these invariants.
    pub fn add(&self, invariants: &[usize], what: &'static str, count: u64) {
        let mut lines = self.0.lock().unwrap();
        for &invariant in invariants {
            *lines[invariant].tried.entry(what).or_default() += count;
        }
    }

    /// Says that an invariant that the attack checks did not hold.
    pub fn failed(&self, attack: &Attack) {
        let mut lines = self.0.lock().unwrap();
        for &invariant in attack.invariants {
            lines[invariant].failures += 1;
        }
    }

    /// Whether something was to be tried and never was, so that nothing is known of it.
    pub fn is_incomplete(&self) -> bool {
        let lines = self.0.lock().unwrap();
        let mut counts = lines.iter().flat_map(|line| line.tried.values());
        counts.any(|&count| count == 0)
    }

    /// How often an invariant did not hold.
    pub fn failures(&self) -> u64 {
        self.0
            .lock()
            .unwrap()
            .iter()
            .map(|line| line.failures)
            .sum()
    }

    /// A line for each invariant: what was tried, and what was lost.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for (number, line) in self.0.lock().unwrap().iter().enumerate().skip(1) {
            let tried: Vec<String> = line
                .tried
                .iter()
                .map(|(what, count)| format!("{count} {what}"))
                .collect();
            writeln!(
                table,
                "{number} {:<20} {} lost   {}",
                INVARIANTS[number],
                line.failures,
                tried.join(", ")
            )
            .unwrap();
        }
        table
    }
}
