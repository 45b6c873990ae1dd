//! A machine that runs one command under a kernel of Debian's own, in QEMU.
//!
//! | disk | what it is |
//! | --- | --- |
//! | `vda` | the root disk: a minimal Debian of this host's release, which `fixtures/machines.sh` made |
//! | `vdb` | `/lib/modules` of the kernel |
//! | `vdc` | `/programs`: the built `vhashify`, the test programs, `init` and the command |
//! | `vdd` | empty, ext4, mounted at the path that is `target/tmp` here |
//!
//! What a machine writes to its disks is forgotten when it stops. Its console, which is the kernel's
//! log, is `target/tmp/vm-PID-NUMBER/console`; it stays where a test failed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::programs;
use crate::support::filesystem::command;

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
}

impl Machine {
    /// One with the kernel of Debian 12 (6.1) or 13 (6.12).
    pub fn debian(release: u32) -> Self {
        Self {
            debian: release,
            time_limit: Duration::from_secs(600),
        }
    }

    /// Runs the tests of `tests/NAME.rs` with arguments of libtest; all must pass, and at least one
    /// must have run.
    pub fn passes(&self, test: &str, arguments: &[&str]) {
        let program = format!("/programs/{test}");
        let mut command = vec![program.as_str()];
        command.extend(arguments);
        let output = self.run_with(&[test], &command);
        assert_eq!(output.status, 0, "{test} failed:\n{}", output.text);
        assert!(
            output.text.contains("test result: ok.") && !output.text.contains(" 0 passed;"),
            "no test of {test} ran:\n{}",
            output.text
        );
    }

    /// Runs a command as root, with the paths of the machine.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        self.run_with(&[], arguments)
    }

    fn run_with<S: AsRef<OsStr>>(&self, tests: &[&str], arguments: &[S]) -> Output {
        let place = Place::new();
        let programs = place.0.join("programs.img");
        programs::disk(&programs, &place.0.join("programs"), tests, arguments);
        let scratch = File::create(place.0.join("scratch.img")).unwrap();
        scratch.set_len(16 << 30).unwrap();

        let started = Instant::now();
        let mut qemu = self.start(&place.0);
        let is_over = wait(&mut qemu, started + self.time_limit);
        let read =
            |name| String::from_utf8_lossy(&fs::read(place.0.join(name)).unwrap()).into_owned();
        let (console, text, status) = (read("console"), read("output"), read("status"));
        let failed = |why: &str| -> ! {
            let from = console.len().saturating_sub(4000);
            let tail = String::from_utf8_lossy(&console.as_bytes()[from..]);
            panic!(
                "Debian {}: {why}\n--- output\n{text}\n--- end of the console\n{tail}",
                self.debian
            )
        };
        if !is_over {
            failed(&format!("still running after {:?}", self.time_limit));
        }
        if let Some(line) = console.lines().find(|line| is_kernel_trouble(line)) {
            failed(&format!("the kernel complained: {line}"));
        }
        let Ok(status) = status.trim().parse() else {
            failed("it stopped before the command ended");
        };
        Output { status, text }
    }

    fn start(&self, place: &Path) -> Child {
        let made = made();
        let kernel = made.join(format!("debian-{}", self.debian));
        let log = File::create(place.join("qemu")).unwrap();
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args([
                "-machine",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
            ])
            .args(["-smp", "2", "-m", "2048"])
            .arg("-kernel")
            .arg(kernel.join("vmlinuz"))
            .arg("-initrd")
            .arg(kernel.join("initrd"))
            // The lockup detectors would see a busy host; the time limit is there for lockups.
            .args([
                "-append",
                "console=ttyS0 oops=panic panic=-1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1",
            ])
            .args(["-object", "rng-random,id=random,filename=/dev/urandom"])
            .args(["-device", "virtio-rng-pci,rng=random"])
            .args(["-device", "virtio-serial-pci"]);
        for name in ["output", "status"] {
            qemu.arg("-chardev")
                .arg(option("file", name, &place.join(name)));
            qemu.args([
                "-device",
                &format!("virtserialport,chardev={name},name={name}"),
            ]);
        }
        qemu.arg("-chardev")
            .arg(option("file", "console", &place.join("console")));
        qemu.args(["-serial", "chardev:console"]);
        for (number, disk) in [
            made.join("root.img"),
            kernel.join("modules.img"),
            place.join("programs.img"),
            place.join("scratch.img"),
        ]
        .iter()
        .enumerate()
        {
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
            .env("TMPDIR", place)
            .spawn()
            .expect("setpriv and qemu-system-x86_64: `make test-vm` installs them")
    }
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
fn wait(qemu: &mut Child, until: Instant) -> bool {
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
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vm-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for disk in ["programs.img", "scratch.img"] {
                drop(fs::remove_file(self.0.join(disk)));
            }
        } else {
            drop(fs::remove_dir_all(&self.0));
        }
    }
}

/// `file,id=NAME,path=PATH` for QEMU.
fn option(kind: &str, name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(format!("{kind},id={name},path="));
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
