//! A guest that is an adversary: root with all capabilities in user, mount and pid namespaces of its
//! own, who tries every way to change shared files, again and again.
//!
//! It may do what it likes with files of its own, so it tries its ways on marked files only. A run
//! that finds no second guest for a new object takes the mark off again; therefore a file is tried
//! once it has been seen with its mark for a while.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::attempts::ATTEMPTS;
use super::snapshot::is_object;

/// Names the directory to a program that is to be the adversary: see [`attack`].
pub const VARIABLE: &str = "VHASHIFY_ADVERSARY";

const A_WHILE: Duration = Duration::from_secs(2);

/// A command in the adversary's context; its arguments are to follow.
pub fn in_context() -> Command {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--user", "--map-root-user", "--mount", "--pid", "--fork"])
        .args(["--kill-child", "--mount-proc"]);
    unshare
}

/// The adversary at work below a directory.
pub struct Adversary {
    process: Child,
    said: tempfile::NamedTempFile,
}

impl Adversary {
    /// Starts `program` with `arguments`, which is to call [`attack`].
    pub fn start(program: &Path, arguments: &[&str], place: &Path) -> Self {
        let said = tempfile::NamedTempFile::new().unwrap();
        let process = in_context()
            .arg(program)
            .args(arguments)
            .env(VARIABLE, place)
            .stdout(said.reopen().unwrap())
            .spawn()
            .unwrap();
        Self { process, said }
    }

    /// Stops it. Panics where it has changed anything; returns how many attempts were refused.
    pub fn stop(mut self) -> u64 {
        let ended = self.process.try_wait().unwrap();
        let said = fs::read_to_string(self.said.path()).unwrap();
        assert!(ended.is_none(), "the adversary stopped: {said}");
        said.lines()
            .filter_map(|line| line.strip_prefix("refused ")?.parse::<u64>().ok())
            .sum()
    }
}

impl Drop for Adversary {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Tries everything on every shared file below `place` until it is killed, and says after each pass
/// how often it was refused. Ends with a panic as soon as something goes through.
#[allow(clippy::print_stdout)]
pub fn attack(place: &Path) -> ! {
    let mut first_seen: HashMap<u64, Instant> = HashMap::new();
    loop {
        let mut refused = 0;
        for entry in walkdir::WalkDir::new(place).into_iter().flatten() {
            // Who opens a FIFO for reading waits.
            let mut options = File::options();
            options
                .read(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW);
            let Some(file) = entry
                .file_type()
                .is_file()
                .then(|| options.open(entry.path()).ok())
                .flatten()
            else {
                continue;
            };
            let Ok(metadata) = file.metadata() else {
                continue;
            };
            if !metadata.is_file() || !is_object(&file) {
                continue;
            }
            let seen = *first_seen
                .entry(metadata.ino())
                .or_insert_with(Instant::now);
            if seen.elapsed() > A_WHILE {
                refused += attack_file(&file, entry.path());
            }
        }
        println!("\nrefused {refused}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn attack_file(file: &File, name: &Path) -> u64 {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut refused = 0;
    for (attempt, _, attack) in ATTEMPTS {
        match attack(Path::new(&path)) {
            Err(_) => refused += 1,
            // Which this kernel does not have.
            Ok(()) if *attempt == "file-setattr" => {}
            Ok(()) => assert!(!is_object(file), "{attempt} of {}", name.display()),
        }
    }
    refused
}
