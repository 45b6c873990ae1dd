//! A machine that runs a list under a kernel of Debian's own, in QEMU, and says what became of each item.
//!
//! | disk | what it is |
//! | --- | --- |
//! | `vda` | the root disk: a minimal Debian of this host's release, which `fixtures/machines.sh` made |
//! | `vdb` | `/lib/modules` of the kernel |
//! | `vdc` | `/programs`: the built programs, the test programs, `init` and the list |
//! | `vdd` | empty, ext4, `/scratch`: where tests write |
//! | `vde` | guests, `/guests`: where tests write that start some |
//!
//! What a machine writes to its disks is forgotten when it stops. It tells three things, each in a file of
//! `target/tmp/vm-PID-NUMBER`, which stays until the next run where the machine failed:
//!
//! | file | what it holds |
//! | --- | --- |
//! | `console` | the kernel's log, with a line before each item |
//! | `output` | what the items print, each after a mark |
//! | `status` | a line at the end of each item: number, status, seconds |

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vhashify_testkit::stall;

use super::accelerator::Accelerator;
use super::item::Item;
use super::kernel::{Kernel, made};
use super::outcome::Outcome;
use super::place::Place;
use super::programs;
use super::qemu::{escaped, file, has_kvm, qemu};

/// How often a machine is started for one item whose emulator fails.
const MOST_BOOTS: u32 = 3;

/// A kernel, and how long it is waited for.
#[derive(Debug)]
pub struct Machine {
    kernel: Kernel,
    time_limit: Duration,
    most_boots: u32,
    emulator: Accelerator,
    /// How long its second processor runs and stops in turns, while items run.
    stalls: Option<(Duration, Duration)>,
}

impl Machine {
    /// One with this kernel.
    pub fn with(kernel: Kernel) -> Self {
        Self {
            kernel,
            time_limit: Duration::from_mins(20),
            most_boots: MOST_BOOTS,
            emulator: Accelerator::InTurns,
            stalls: None,
        }
    }

    /// With a thread for each of its processors where it is emulated, at the price of time and of an emulator that may
    /// fail.
    pub fn in_parallel(mut self) -> Self {
        self.emulator = Accelerator::Parallel;
        self
    }

    fn accelerator(&self) -> Accelerator {
        if has_kvm() {
            Accelerator::Kvm
        } else {
            self.emulator
        }
    }

    /// Another time limit for the start and for each item than 20 minutes.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Its second processor runs for a while and stops for a while, in turns, while items run.
    pub fn stalls(mut self, runs: Duration, stops: Duration) -> Self {
        self.stalls = Some((runs, stops));
        self
    }

    /// Another number of machines than three for an item whose emulator fails.
    pub fn tries(mut self, most: u32) -> Self {
        self.most_boots = most;
        self
    }

    /// Runs a list in one machine, and says a line for each. Where a machine stops early, what was left is
    /// run in another one.
    pub fn run(&self, items: &[Item]) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut boots = 0;
        while outcomes.len() < items.len() {
            let rest = &items[outcomes.len()..];
            boots += 1;
            for mut outcome in self.boot(rest) {
                if boots < self.most_boots && self.accelerator().has_failed(&outcome.kernel) {
                    let name = &self.kernel.name;
                    print(&format!("{name}: the emulator failed; again"));
                    break;
                }
                outcome.boots = std::mem::take(&mut boots).max(1);
                print(&outcome.line());
                if items[outcomes.len()].is_shown {
                    print(&outcome.text);
                }
                outcomes.push(outcome);
            }
        }
        outcomes
    }

    /// What became of the first items of a list in one machine: of one at least.
    fn boot(&self, items: &[Item]) -> Vec<Outcome> {
        let place = Place::new();
        let programs = place.0.join("programs.img");
        programs::disk(&programs, &place.0.join("programs"), items);
        let scratch = File::create(place.0.join("scratch.img")).unwrap();
        scratch.set_len(16 << 30).unwrap();
        let mut qemu = self.start(&place.0);
        let is_over = AtomicBool::new(false);
        let has_ended = std::thread::scope(|scope| {
            if let Some((runs, stops)) = self.stalls {
                let (number, place, is_over) = (qemu.id(), &place, &is_over);
                scope.spawn(move || {
                    while !place.read("console").contains("vhashify-item 0 begins") {
                        std::thread::sleep(Duration::from_millis(100));
                        if is_over.load(Ordering::SeqCst) {
                            return;
                        }
                    }
                    let processor = stall::processor(number, 1).expect("a thread of QEMU");
                    stall::stall(processor, runs, stops, is_over).unwrap();
                });
            }
            let has_ended = self.wait_for_all(&mut qemu, &place);
            is_over.store(true, Ordering::SeqCst);
            has_ended
        });
        let outcomes = self.outcomes(items, &place, has_ended);
        if outcomes.iter().all(|outcome| outcome.why.is_none()) {
            place.forget();
        }
        outcomes
    }

    /// What a machine that has stopped told of the items that it came to.
    fn outcomes(&self, items: &[Item], place: &Place, has_ended: bool) -> Vec<Outcome> {
        let console = place.read("console");
        let said = place.read("output");
        let ends = place.read("status");
        let kernels = parts(&console, items.len(), |number| {
            format!("vhashify-item {number} begins")
        });
        let texts = parts(&said, items.len(), |number| format!("\u{1e}{number}\n"));
        let end_of = |number: usize| -> Option<(i32, u64)> {
            let words = ends.lines().nth(number)?.split(' ').collect::<Vec<_>>();
            Some((words[1].parse().ok()?, words[2].parse().ok()?))
        };
        let mut outcomes = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let end = end_of(number);
            let kernel = kernels.get(number).copied().unwrap_or_default();
            let complaint = kernel.lines().find(|line| is_kernel_trouble(line));
            let why = match (complaint, end) {
                (Some(line), _) => Some(format!("the kernel complained: {line}")),
                (None, Some(_)) => None,
                (None, None) if !has_ended => {
                    Some(format!("still running after {:?}", self.time_limit))
                }
                (None, None) => {
                    let said = place.read("qemu");
                    Some(format!(
                        "it stopped before the command ended {}",
                        said.trim()
                    ))
                }
            };
            outcomes.push(Outcome {
                name: item.name.clone(),
                status: end.map(|(status, _)| status),
                // What stands before the first mark is nobody's.
                text: texts.get(number).map_or(String::new(), |text| {
                    text.split_once('\n')
                        .map_or("", |(_, text)| text)
                        .to_owned()
                }),
                why,
                boots: 0,
                is_test: item.is_test,
                seconds: end.map_or(0, |(_, seconds)| seconds),
                machine: self.kernel.name.clone(),
                kernel: kernel.to_owned(),
            });
            if end.is_none() {
                break;
            }
        }
        outcomes
    }

    /// Whether it ended by itself; it is killed where too much time goes by between two items.
    fn wait_for_all(&self, qemu: &mut Child, place: &Place) -> bool {
        let mut ended = 0;
        loop {
            let until = Instant::now() + self.time_limit;
            loop {
                if qemu.try_wait().unwrap().is_some() {
                    return true;
                }
                let now = place.read("status").lines().count();
                if now > ended {
                    ended = now;
                    break;
                }
                if Instant::now() >= until {
                    qemu.kill().unwrap();
                    qemu.wait().unwrap();
                    return false;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn start(&self, place: &Path) -> Child {
        let (made, kernel) = (made(), self.kernel.directory());
        let log = File::create(place.join("qemu")).unwrap();
        let mut qemu = qemu(&kernel, self.accelerator(), &place.join("console"), "");
        qemu.args(["-object", "rng-random,id=random,filename=/dev/urandom"])
            .args(["-device", "virtio-rng-pci,rng=random"])
            .args(["-device", "virtio-serial-pci"]);
        for port in ["output", "status"] {
            qemu.arg("-chardev").arg(file(port, &place.join(port)));
            qemu.args([
                "-device",
                &format!("virtserialport,chardev={port},name={port}"),
            ]);
        }
        let disks = [
            made.join("root.img"),
            kernel.join("modules.img"),
            place.join("programs.img"),
            place.join("scratch.img"),
            made.join("guests.img"),
        ];
        for (number, disk) in disks.iter().enumerate() {
            let mut drive = OsString::from(format!(
                "if=none,id=disk{number},format=raw,snapshot=on,file="
            ));
            drive.push(escaped(disk));
            qemu.arg("-drive").arg(drive);
            qemu.args(["-device", &format!("virtio-blk-pci,drive=disk{number}")]);
        }
        qemu.stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // Where it keeps what is written to the disks.
            .env("TMPDIR", place)
            .spawn()
            .expect("setpriv and qemu-system-x86_64: `make test-vm` installs them")
    }
}

/// Divides what a machine has told at the marks before its items: the first part begins where the text does.
fn parts(text: &str, count: usize, mark: impl Fn(usize) -> String) -> Vec<&str> {
    let mut starts = vec![0];
    for number in 0..count {
        let Some(at) = text.find(&mark(number)) else {
            break;
        };
        if number > 0 {
            starts.push(at);
        }
    }
    let ends = starts[1..].iter().copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &text[*start..end])
        .collect()
}

/// What a reader of the results sees.
#[allow(clippy::print_stdout)]
fn print(text: &str) {
    println!("{text}");
}

/// Lines that a kernel in order never prints.
fn is_kernel_trouble(line: &str) -> bool {
    [
        "BUG: ",
        "WARNING: ",
        "Oops: ",
        "kernel BUG at",
        "Kernel panic",
        "general protection fault",
    ]
    .iter()
    .any(|sign| line.contains(sign))
}
