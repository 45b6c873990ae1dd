//! What the broker costs a guest: an open for writing and one for reading of a private file beside the same
//! calls without it, a break, and breaks of fifty guests at once, beside fifty who do nothing but copy and rename.
//! Ratios and differences are of one run.
//!
//! The guest is a thread of this program with the filter of a guest and the guest's root directory, as a
//! container's process has both; so nothing is measured that a container adds. `libseccomp` makes one
//! listener for each process, so every measurement that needs one is done by this program, started again.
//!
//! Needs root: `cargo bench --bench broker`. Nothing is asserted but that no break was lost.
#![allow(unsafe_code)] // A thread with a root directory of its own.

#[path = "support/place.rs"]
mod place;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use libcontainer::oci_spec::runtime::LinuxSeccomp;
use place::Workplace;
use rustix::fs::AtFlags;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::json;
use vhashify::broker::Broker;
use vhashify::broker::break_link::Breaker;
use vhashify::broker::serve::{THREADS_OF_INIT, serve};
use vhashify::guest::{Guest, StoreLocation};
use vhashify_sys::{flush, tmpfile};
use vserver::context::call_numbers::call_table;
use vserver::context::filter::load_filter;
use vserver::context::notify;

/// What this program does when it starts itself, and for which guest.
const TASK: &str = "VHASHIFY_BENCH_TASK";

/// Files of a guest that are broken one by one, and their bytes: as the goal has it.
const LARGE: (usize, usize) = (300, 100_000);
/// Guests that break at once, files of each, and their bytes.
const MANY: (usize, usize, usize) = (50, 200, 4_000);

fn main() -> Result<()> {
    if let Some(task) = std::env::var_os(TASK) {
        return do_task(Path::new(&task));
    }
    // Cargo passes this to benchmarks, and not when it runs them as tests.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let host = Host::new(2, LARGE.0, LARGE.1)?;
    let mut one = host.task(0, "one")?;
    let mut said = String::new();
    one.stdout
        .take()
        .context("no output")?
        .read_to_string(&mut said)?;
    ensure!(one.wait()?.success(), "the measurement failed");
    say(said.trim_end())?;
    drop(host);
    many()
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Guests that share all their files, in one directory.
struct Host {
    place: Workplace,
}

impl Host {
    fn new(guests: usize, files: usize, bytes: usize) -> Result<Self> {
        let place = Workplace::new("broker")?;
        fs::create_dir(place.path().join("store"))?;
        let first = place.path().join("guest0");
        fs::create_dir(&first)?;
        for number in 0..files {
            let mut content = format!("file {number}\n").into_bytes();
            content.resize(bytes, b'.');
            fs::write(first.join(format!("shared{number}")), content)?;
        }
        let mut vdirs = vec![first.clone()];
        for number in 1..guests {
            let vdir = place.path().join(format!("guest{number}"));
            run(Command::new("cp").arg("-a").arg(&first).arg(&vdir))?;
            vdirs.push(vdir);
        }
        let mut unify = Command::new(env!("CARGO_BIN_EXE_vhashify"));
        unify.args(["--protect", "none", "--manually", "--destination"]);
        unify.arg(place.path().join("store"));
        unify.arg("--state-dir").arg(place.path().join("state"));
        run(unify.args(&vdirs))?;
        for vdir in &vdirs {
            fs::write(vdir.join("private"), "of this guest")?;
        }
        Ok(Self { place })
    }

    fn at(&self, guest: usize) -> PathBuf {
        self.place.path().join(format!("guest{guest}"))
    }

    /// Starts this program for a guest.
    fn task(&self, guest: usize, what: &str) -> Result<Child> {
        let child = Command::new(std::env::current_exe()?)
            .arg(what)
            .env(TASK, self.at(guest))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(child)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

fn do_task(vdir: &Path) -> Result<()> {
    let what = std::env::args_os().nth(1).unwrap_or_default();
    if what == OsStr::new("one") {
        let without = calls(&vdir.join("private"))?;
        in_guest(vdir, || one_guest(without))
    } else if what == OsStr::new("many") {
        in_guest(vdir, || one_of_many(Path::new("/"), |_, _| Ok(())))
    } else {
        let directory = File::open(vdir)?;
        one_of_many(vdir, |path, number| {
            least_of_a_break(&directory, path, number)
        })
    }
}

/// Does `work` in a thread whose root directory is the guest's and whose calls wait for the broker.
fn in_guest(vdir: &Path, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let store = vdir.with_file_name("store");
    let name = vdir.file_name().context("no name")?;
    let guest = Guest::open(name, vdir)?;
    let store = StoreLocation::open(&store)?.directory;
    let breaker = Breaker::new(guest, Some(store));
    let broker = Arc::new(Broker::new(
        breaker,
        Box::new(Vec::new),
        Arc::new(call_table()),
    ));
    let (listeners, listener) = channel();
    let (ready, go) = channel::<()>();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || -> Result<()> {
            // SAFETY: only this thread's root and working directory part from the others'.
            unsafe { unshare_unsafe(UnshareFlags::FS) }?;
            rustix::process::chroot(vdir)?;
            rustix::process::chdir("/")?;
            let mut spec = json!({ "linux": { "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
                "syscalls": [],
            } } });
            notify::add(&mut spec, "/none");
            let filter: LinuxSeccomp = serde_json::from_value(spec["linux"]["seccomp"].take())?;
            let listener = load_filter(&filter)?.context("no listener")?;
            listeners.send(listener)?;
            go.recv()?;
            work()
        });
        let threads = serve(&broker, listener.recv()?.into(), THREADS_OF_INIT)?;
        ready.send(())?;
        let result = thread.join().map_err(|_| anyhow!("the guest panicked"))?;
        for thread in threads {
            thread.join().map_err(|_| anyhow!("the broker panicked"))?;
        }
        result
    })
}

/// Seconds of an open for writing and of one for reading, each with its close, and of a change of the mode of a
/// file that is open for writing: the median of some rounds.
type Calls = [f64; 3];

fn calls(path: &Path) -> Result<Calls> {
    const ROUNDS: usize = 21;
    const CALLS: u32 = 2_000;
    let file = OpenOptions::new().write(true).open(path)?;
    let permissions = file.metadata()?.permissions();
    let open = |writes| {
        OpenOptions::new()
            .read(true)
            .write(writes)
            .open(path)
            .map(drop)
    };
    let change = || file.set_permissions(permissions.clone());
    let all: [&dyn Fn() -> io::Result<()>; 3] = [&|| open(true), &|| open(false), &change];
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (call, times) in all.iter().zip(&mut rounds) {
            let begun = Instant::now();
            for _ in 0..CALLS {
                call()?;
            }
            times.push(begun.elapsed().as_secs_f64() / f64::from(CALLS));
        }
    }
    Ok(rounds.map(median))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn one_guest(without: Calls) -> Result<()> {
    const MICRO: f64 = 1e6;
    let with = calls(Path::new("/private"))?;
    for ((what, goal), (with, without)) in [
        (
            "an open for writing of a private file",
            "at most 15 µs dearer",
        ),
        ("an open for reading", "no dearer"),
        ("a chmod of a private file open for writing", "not given"),
    ]
    .into_iter()
    .zip(with.into_iter().zip(without))
    {
        say(&format!(
            "{what:<44} {:>8.2} µs with the broker, {:.2} µs without: {:+.2} µs   goal: {goal}",
            with * MICRO,
            without * MICRO,
            (with - without) * MICRO
        ))?;
    }
    let mut times = Vec::new();
    for number in 0..LARGE.0 {
        let begun = Instant::now();
        drop(
            OpenOptions::new()
                .write(true)
                .open(format!("/shared{number}"))?,
        );
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let at = |hundredths: usize| times[(times.len() - 1) * hundredths / 100] * MICRO;
    say(&format!(
        "{:<44} {:>8.2} µs median of {}; {:.2} at 10 %, {:.2} at 90 %   goal: at most 1000 µs",
        format!("an open that breaks {} KB", LARGE.1 / 1000),
        at(50),
        times.len(),
        at(10),
        at(90)
    ))
}

/// Waits for a byte, has every file of `root` written to after `first` saw to it, and says how long it took, in
/// nanoseconds.
fn one_of_many(root: &Path, first: impl Fn(&Path, usize) -> Result<()>) -> Result<()> {
    say("ready")?;
    io::stdin().read_exact(&mut [0])?;
    let begun = Instant::now();
    for number in 0..MANY.1 {
        let path = root.join(format!("shared{number}"));
        first(&path, number)?;
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(b"WRITTEN")?;
    }
    say(&begun.elapsed().as_nanos().to_string())
}

/// What no break can do without: a copy with its bytes on the disk, and its name in the place of the object's.
/// No lease, no metadata, no look whether the file is still the same.
fn least_of_a_break(directory: &File, path: &Path, number: usize) -> Result<()> {
    let object = File::open(path)?;
    let copy = File::from(tmpfile::create(directory.as_fd())?);
    io::copy(&mut &object, &mut &copy)?;
    flush::settle(&copy)?;
    let new = format!("new{number}");
    rustix::fs::linkat(&copy, "", directory, &new, AtFlags::EMPTY_PATH)?;
    rustix::fs::renameat(directory, &new, rustix::fs::CWD, path)?;
    Ok(())
}

fn many() -> Result<()> {
    let limit = many_at_once("least")?;
    let breaks = many_at_once("many")?;
    let guests = MANY.0;
    say(&format!(
        "{:<44} {breaks:>8.0} a second, none lost; {limit:.0} copies and renames without a broker: {:.2} of them   goal: 10,000 a second",
        format!("breaks of {guests} guests at once"),
        breaks / limit,
    ))
}

/// Files that the guests have made theirs and written to in a second, each guest in its own process that does
/// `what`.
fn many_at_once(what: &str) -> Result<f64> {
    let (guests, files, bytes) = MANY;
    // One more, whose files nobody writes to.
    let host = Host::new(guests + 1, files, bytes)?;
    let mut children = Vec::new();
    for guest in 0..guests {
        let mut child = host.task(guest, what)?;
        let mut ready = [0; 6];
        let output = child.stdout.as_mut().context("no output")?;
        output.read_exact(&mut ready)?;
        children.push(child);
    }
    let begun = Instant::now();
    for child in &mut children {
        child.stdin.as_mut().context("no input")?.write_all(b"+")?;
    }
    for child in &mut children {
        let mut told = String::new();
        let output = child.stdout.as_mut().context("no output")?;
        output.read_to_string(&mut told)?;
        ensure!(child.wait()?.success(), "a guest failed");
    }
    let seconds = begun.elapsed();
    let mut inodes = std::collections::HashSet::new();
    for guest in 0..=guests {
        for number in 0..files {
            let mut file = File::open(host.at(guest).join(format!("shared{number}")))?;
            ensure!(
                inodes.insert(file.metadata()?.ino()),
                "two guests share a file"
            );
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            let expected: &[u8] = if guest < guests { b"WRITTEN" } else { b"file " };
            ensure!(
                text.len() == bytes && text.starts_with(expected),
                "a write was lost"
            );
        }
    }
    let all = u32::try_from(guests * files)?;
    Ok(f64::from(all) / seconds.as_secs_f64())
}
