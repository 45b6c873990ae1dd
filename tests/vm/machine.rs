//! A machine that runs one command under a kernel of Debian's own, in QEMU.
//!
//! | disk | what it is |
//! | --- | --- |
//! | `vda` | the root disk: a minimal Debian of this host's release, which `fixtures/machines.sh` made |
//! | `vdb` | `/lib/modules` of the kernel |
//! | `vdc` | `/programs`: the built `vhashify`, the test programs, `init` and the command |
//! | `vdd` | empty, ext4, mounted at the path that is `target/tmp` here; guests for the test `vserver` |
//!
//! What a machine writes to its disks is forgotten when it stops. Its console, which is the kernel's
//! log, is `target/tmp/vm-PID-NUMBER/console`; it stays until the next run where the machine failed.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use crate::support::filesystem::command;
use crate::{accelerator, print, programs};

/// How often a machine is started whose emulator fails.
const MOST_BOOTS: u32 = 3;

/// A machine that has not been started.
#[derive(Debug)]
pub struct Machine {
    debian: u32,
    time_limit: Duration,
}

/// What a command did in a machine.
#[derive(Debug)]
pub struct Output {
    /// As a shell says it: 128 and the signal's number where a signal ended the command.
    pub status: i32,
    /// Standard output and standard error.
    pub text: String,
    /// The kernel's log.
    pub kernel: String,
}

/// Why there is no [`Output`].
#[derive(Debug)]
pub struct Failure {
    /// One line.
    pub why: String,
    /// What the command had printed, and the end of the kernel's log.
    details: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}\n{}", self.why, self.details)
    }
}

impl Machine {
    /// One with the kernel of Debian 12 (6.1) or 13 (6.12).
    pub fn debian(release: u32) -> Self {
        Self {
            debian: release,
            time_limit: Duration::from_mins(20),
        }
    }

    /// Another time limit than 20 minutes.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Runs the tests of `tests/NAME.rs` with arguments of libtest; all must pass, and at least one
    /// must have run.
    pub fn passes(&self, test: &str, arguments: &[&str]) {
        let program = format!("/programs/{}", programs::in_folder(test));
        let mut command = vec![program.as_str()];
        command.extend(arguments);
        let output = self
            .try_run(&[test], &command)
            .unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(
            output.status,
            0,
            "{test} failed:\n{}\n--- kernel\n{}",
            output.text,
            end_of(&output.kernel)
        );
        assert!(
            output.text.contains("test result: ok.") && !output.text.contains(" 0 passed;"),
            "no test of {test} ran:\n{}",
            output.text
        );
    }

    /// Runs a command as root, with the paths of the machine. The kernel must be content.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        self.try_run(&[], arguments)
            .unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Runs a command in a machine that has the programs of `tests`, too.
    pub fn try_run<S: AsRef<OsStr>>(
        &self,
        tests: &[&str],
        arguments: &[S],
    ) -> Result<Output, Failure> {
        let place = Place::new();
        let programs = place.0.join("programs.img");
        programs::disk(&programs, &place.0.join("programs"), tests, arguments);
        let scratch = File::create(place.0.join("scratch.img")).unwrap();
        scratch.set_len(16 << 30).unwrap();

        let has_guests = tests.contains(&programs::VSERVER);
        let (has_ended, console) = self.boot(&place, has_guests);
        let text = place.read("output");
        let why = if let Some(line) = console.lines().find(|line| is_kernel_trouble(line)) {
            format!("the kernel complained: {line}")
        } else if !has_ended {
            format!("still running after {:?}", self.time_limit)
        } else if let Ok(status) = place.read("status").trim().parse() {
            place.forget();
            return Ok(Output {
                status,
                text,
                kernel: console,
            });
        } else {
            let said = place.read("qemu");
            format!("it stopped before the command ended\n{said}")
        };
        Err(Failure {
            why: format!("Debian {}: {why}", self.debian),
            details: format!("--- output\n{text}\n--- kernel\n{}", end_of(&console)),
        })
    }

    /// Whether it ended within its time, and its console. Where the emulator failed it is started again.
    fn boot(&self, place: &Place, has_guests: bool) -> (bool, String) {
        let mut boots = 1;
        loop {
            let started = Instant::now();
            let mut qemu = self.start(&place.0, has_guests);
            let has_ended = wait(&mut qemu, started + self.time_limit);
            let console = place.read("console");
            if boots == MOST_BOOTS || !accelerator::has_failed(accelerator(), &console) {
                return (has_ended, console);
            }
            print(&format!(
                "Debian {}: the emulator failed; again",
                self.debian
            ));
            boots += 1;
        }
    }

    fn start(&self, place: &Path, has_guests: bool) -> Child {
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
            if has_guests {
                made.join("guests.img")
            } else {
                place.join("scratch.img")
            },
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

fn accelerator() -> &'static str {
    static ACCELERATOR: OnceLock<&str> = OnceLock::new();
    ACCELERATOR.get_or_init(|| accelerator::accelerator(&made().join("debian-13")))
}

/// What `fixtures/machines.sh` made, once for all tests.
fn made() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .parent()
            .unwrap()
            .join("vm");
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
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Place {
    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.0.join(name)).unwrap()).into_owned()
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
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
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
