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

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use vhashify_testkit::built;
use vhashify_testkit::filesystem::command;

use super::{accelerator, programs};

/// How often a machine is started for one item whose emulator fails.
const MOST_BOOTS: u32 = 3;

/// A kernel, and how long it is waited for.
#[derive(Debug)]
pub struct Machine {
    debian: u32,
    time_limit: Duration,
    most_boots: u32,
}

/// Something that a machine runs, as root, with the paths of the machine.
#[derive(Debug, Clone)]
pub struct Item {
    /// As a reader of the results finds it.
    pub name: String,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Whether it is a test of this program, which says whether it has run.
    is_test: bool,
    /// Whether one wants to see what it prints where all is well, too.
    is_shown: bool,
}

/// What became of an [`Item`].
#[derive(Debug)]
pub struct Outcome {
    /// That of the item.
    pub name: String,
    /// As a shell says it: 128 and the signal's number where a signal ended it. `None` where it did not end.
    pub status: Option<i32>,
    /// Standard output and standard error.
    pub text: String,
    /// Why it is not believed: the kernel complained, or the machine stopped or was stopped. One line.
    pub why: Option<String>,
    /// How many machines were started for it.
    pub boots: u32,
    is_test: bool,
    seconds: u64,
    debian: u32,
    /// The kernel's log meanwhile; of the first item in a machine, from its start on.
    kernel: String,
}

impl Item {
    /// The test of this program that has exactly this name.
    pub fn test(name: &str) -> Self {
        let runner = ["/programs/runner", "--include-ignored", "--exact", name];
        Self {
            name: name.to_owned(),
            command: runner.map(OsString::from).to_vec(),
            is_test: true,
            is_shown: false,
        }
    }

    /// A shell script.
    pub fn script(name: &str, script: &str) -> Self {
        Self {
            name: name.to_owned(),
            command: ["sh", "-c", script].map(OsString::from).to_vec(),
            is_test: false,
            is_shown: false,
        }
    }

    /// These attacks of the torture.
    pub fn torture(attacks: &[&str]) -> Self {
        let mut command = vec![OsString::from("/programs/torture")];
        command.extend(attacks.iter().map(OsString::from));
        Self {
            name: programs::TORTURE.to_owned(),
            command,
            is_test: false,
            is_shown: true,
        }
    }

    /// The same with this in its environment.
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        let set = OsString::from(format!("{variable}={value}"));
        self.command.splice(0..0, ["env".into(), set]);
        self
    }

    /// The same where the disk with guests is.
    pub fn on_the_disk_with_guests(self) -> Self {
        self.with(built::SCRATCH, "/guests")
    }

    /// The same, and what it prints is shown.
    pub fn shown(mut self) -> Self {
        if self.is_test {
            self.command.push("--nocapture".into());
        }
        self.is_shown = true;
        self
    }
}

impl Outcome {
    /// Whether it ended with 0 under a kernel that was content; a test has run besides.
    pub fn is_well(&self) -> bool {
        let has_run = self.text.contains("test result: ok. 1 passed;");
        self.why.is_none() && self.status == Some(0) && (has_run || !self.is_test)
    }

    fn line(&self) -> String {
        let Self { name, debian, .. } = self;
        let ended = match (self.status, &self.why) {
            (_, Some(why)) => why.clone(),
            _ if self.is_well() => "ok".to_owned(),
            (Some(0), _) => "no test has run".to_owned(),
            (status, _) => format!("status {}", status.unwrap_or(-1)),
        };
        format!("Debian {debian}: {name}: {ended}, {} s", self.seconds)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, kernel, .. } = self;
        let kernel = end_of(kernel);
        write!(
            to,
            "{}\n--- output\n{text}\n--- kernel\n{kernel}",
            self.line()
        )
    }
}

impl Machine {
    /// One with the kernel of Debian 12 (6.1) or 13 (6.12).
    pub fn debian(release: u32) -> Self {
        Self {
            debian: release,
            time_limit: Duration::from_mins(20),
            most_boots: MOST_BOOTS,
        }
    }

    /// Another time limit for the start and for each item than 20 minutes.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
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
                if boots < self.most_boots
                    && accelerator::has_failed(accelerator(), &outcome.kernel)
                {
                    print(&format!(
                        "Debian {}: the emulator failed; again",
                        self.debian
                    ));
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
        let has_ended = self.wait_for_all(&mut qemu, &place);

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
                debian: self.debian,
                kernel: kernel.to_owned(),
            });
            if end.is_none() {
                break;
            }
        }
        if outcomes.iter().all(|outcome| outcome.why.is_none()) {
            place.forget();
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
        let made = made();
        let kernel = made.join(format!("debian-{}", self.debian));
        let log = File::create(place.join("qemu")).unwrap();
        let mut qemu = qemu(&kernel, accelerator(), &place.join("console"), "");
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

/// QEMU with a kernel and its console, and no disks; it dies with the thread that starts it.
pub fn qemu(kernel: &Path, accelerator: &str, console: &Path, append: &str) -> Command {
    // The lockup detectors would see a busy host; the time limit is there for lockups.
    let append = format!(
        "console=ttyS0 oops=panic panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 {append}"
    );
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-machine", "q35", "-accel", accelerator, "-cpu", "max"])
        .args(["-smp", "2", "-m", "2048"])
        .arg("-kernel")
        .arg(kernel.join("vmlinuz"))
        .arg("-initrd")
        .arg(kernel.join("initrd"))
        .args(["-append", &append])
        .arg("-chardev")
        .arg(file("console", console))
        .args(["-serial", "chardev:console"]);
    qemu
}

/// What the machines of this host run on.
pub fn accelerator() -> &'static str {
    static ACCELERATOR: OnceLock<&str> = OnceLock::new();
    ACCELERATOR.get_or_init(|| accelerator::accelerator(&made().join("debian-13")))
}

/// What `fixtures/machines.sh` made, once for all tests.
fn made() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = built::scratch().parent().unwrap().join("vm");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/machines.sh");
        command(Command::new(script).arg(&place));
        place
    })
}

/// Whether it ended by itself; it is killed where it did not.
pub fn wait(qemu: &mut Child, until: Instant) -> bool {
    while Instant::now() < until {
        if qemu.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    qemu.kill().unwrap();
    qemu.wait().unwrap();
    false
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

/// As much of a log as one wants to read first.
fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
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

/// A directory for one machine.
#[derive(Debug)]
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_those_of_earlier_runs();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vm-{}-{number}", std::process::id());
        let path = built::scratch().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Place {
    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.0.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// There is nothing in it that anybody wants to see.
    fn forget(&self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for disk in ["programs.img", "scratch.img"] {
            drop(fs::remove_file(self.0.join(disk)));
        }
    }
}

/// Machines that failed leave their logs, and killed tests all: the next run takes them away.
fn remove_those_of_earlier_runs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let place = built::scratch();
        for entry in fs::read_dir(place).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = name
                .strip_prefix("vm-")
                .and_then(|rest| rest.split('-').next());
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    });
}

/// A `-chardev` that ends in a file.
fn file(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(format!("file,id={name},path="));
    option.push(escaped(path));
    option
}

/// QEMU reads two commas as one in a value.
fn escaped(path: &Path) -> OsString {
    let mut bytes = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        bytes.extend(std::iter::repeat_n(
            *byte,
            if *byte == b',' { 2 } else { 1 },
        ));
    }
    OsStr::from_bytes(&bytes).to_owned()
}
