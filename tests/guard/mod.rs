//! The guard, enforced: run by `make test-vm` in machines whose kernels take it, as root.
//!
//! The program runs itself again to try things in a process of its own, as root of the host or as
//! root of a guest: all capabilities in user, mount and pid namespaces of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod displaced;
mod guests;
mod overhead;
mod stalls;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use vhashify_testkit::adversary::{self, in_context};
use vhashify_testkit::attempts::{self, ATTEMPTS, mark, prepare};
use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each};
use vhashify_testkit::program::vhashify;
use vhashify_testkit::snapshot::{Snapshot, paths};

/// What the program is to do when it runs itself, and where.
const TASK: &str = "VHASHIFY_TEST_TASK";
const PLACE: &str = "VHASHIFY_TEST_PLACE";

#[derive(Debug, Clone, Copy)]
enum Who {
    Host,
    Guest,
}

/// This program again.
fn child(who: Who, task: &str, place: &Path) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = match who {
        Who::Host => Command::new(&this),
        Who::Guest => {
            let mut command = in_context();
            command.arg(&this);
            command
        }
    };
    command
        .args(["--ignored", "--exact", "guard::task", "--nocapture"])
        .env(TASK, task)
        .env(PLACE, place);
    command
}

#[test]
#[ignore = "run by the other tests, in processes of their own"]
fn task() {
    let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
    match std::env::var(TASK).unwrap().as_str() {
        "try" => attempts::try_all(&place),
        // One name more, until it is told that there are too many.
        "link" => {
            let source = place.join("file");
            let made = (0..10_000).find(|number| {
                fs::hard_link(&source, place.join(format!("name{number}"))).is_err_and(|error| {
                    assert_eq!(error.raw_os_error(), Some(libc::EMLINK));
                    true
                })
            });
            say(&format!("made {}", made.unwrap()));
        }
        "stay" => {
            std::os::unix::fs::chroot(&place).unwrap();
            std::env::set_current_dir("/").unwrap();
            std::thread::sleep(Duration::from_mins(10));
        }
        task => panic!("no task {task}"),
    }
}

#[allow(clippy::print_stdout)]
fn say(line: &str) {
    println!("\n{line}");
}

#[test]
#[ignore = "started by other tests, in a guest's context"]
fn adversary_at_work() {
    adversary::attack(Path::new(&std::env::var_os(adversary::VARIABLE).unwrap()));
}

/// The arguments by which this program is the adversary.
const ADVERSARY: [&str; 4] = [
    "--ignored",
    "--exact",
    "guard::adversary_at_work",
    "--nocapture",
];

/// A process that is killed in the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Loads the guard, and unloads it in the end, also after a panic.
struct Guard;

impl Guard {
    fn load(store: &Path) -> Self {
        let this = Self;
        let status = guard(&["load"], store);
        assert_eq!(status["loaded"], true);
        this
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(vhashify().args(["guard", "unload", "--force"]).output());
    }
}

/// `vhashify guard … --format json`.
fn guard(arguments: &[&str], store: &Path) -> Value {
    let mut command = vhashify();
    command.arg("guard").args(arguments);
    command.arg("--destination").arg(store);
    vhashify_testkit::program::json(command)
}

/// A directory with a file for each attempt.
fn files(filesystem: &Filesystem, name: &str, is_marked: bool) -> PathBuf {
    let directory = filesystem.path().join(name);
    fs::create_dir(&directory).unwrap();
    for (name, _, _) in ATTEMPTS {
        let path = directory.join(name);
        prepare(&path);
        if is_marked {
            mark(&path);
        }
    }
    directory
}

/// Tries all, and gives the error of each: 0 for none.
fn errors(who: Who, directory: &Path) -> BTreeMap<String, i32> {
    let printed = command(&mut child(who, "try", directory));
    let attempt = |line: &str| {
        let mut words = line.strip_prefix("attempt ")?.split(' ');
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    let errors: BTreeMap<String, i32> = printed.lines().filter_map(attempt).collect();
    assert_eq!(errors.len(), ATTEMPTS.len(), "{printed}");
    errors
}

/// Everything works, as if there were no guard.
fn all_work(filesystem: &Filesystem, when: &str, is_marked: bool) {
    for who in [Who::Host, Who::Guest] {
        let directory = files(filesystem, &format!("{when}-{who:?}"), is_marked);
        for (name, error) in errors(who, &directory) {
            assert_eq!(error, 0, "{who:?} {when}: {name}");
        }
    }
}

/// All that `stat` says but for atime, by path.
type Stats = Vec<(PathBuf, [i64; 6], u64)>;

fn stats(directory: &Path) -> Stats {
    let stat = |path: PathBuf| {
        let stat = fs::symlink_metadata(&path).unwrap();
        let times = [
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
        ];
        let rest = [i64::from(stat.mode()), i64::from(stat.uid())];
        (
            path,
            [times[0], times[1], times[2], times[3], rest[0], rest[1]],
            stat.size(),
        )
    };
    paths(directory).into_iter().map(stat).collect()
}

#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn whoever_tries_changes_no_marked_file_while_the_guard_is_loaded() {
    on_each(|filesystem| {
        let store = filesystem.path().join("hash");
        fs::create_dir(&store).unwrap();
        all_work(filesystem, "before", true);

        let loaded = Guard::load(&store);
        for who in [Who::Host, Who::Guest] {
            let directory = files(filesystem, &format!("guarded-{who:?}"), true);
            let (before, seen) = (Snapshot::of(&directory), stats(&directory));
            let errors = errors(who, &directory);
            let wrong: Vec<_> = ATTEMPTS
                .iter()
                .filter(|(name, expected, _)| errors[*name] != *expected)
                // A kernel without this call has no hook for it; `check_status` sees the others'.
                .filter(|(name, ..)| !NEWER_CALLS.contains(name) || errors[*name] != 0)
                .map(|(name, ..)| (*name, errors[*name]))
                .collect();
            assert_eq!(wrong, [], "{who:?}");
            before.assert_same(&Snapshot::of(&directory), "after all attempts");
            assert_eq!(stats(&directory), seen, "{who:?}");
        }
        all_work(filesystem, "unmarked", false);
        check_status(&guard(&["status"], &store), filesystem);

        // Names belong to directories, also in a guest.
        let names = files(filesystem, "names", true);
        let script = "cd \"$1\" && ln chmod a && mv chown b && rm utimes && cat a b >/dev/null";
        let mut guest = Command::new("unshare");
        guest.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
        command(guest.arg(&names));

        // Loading twice changes nothing; what was refused is still known.
        let again = guard(&["load"], &store);
        assert_eq!(again["filesystems"].as_array().unwrap().len(), 1);
        assert_ne!(again["last_refusals"].as_array().unwrap().len(), 0);

        let gone = guard(&["unload"], &store);
        assert_eq!(gone["loaded"], false);
        drop(loaded);
        all_work(filesystem, "after", true);
    });
}

fn check_status(status: &Value, filesystem: &Filesystem) {
    let mount = filesystem.path().to_str().unwrap();
    assert_eq!(status["filesystems"][0]["mounts"][0], mount);
    for hook in status["hooks"].as_array().unwrap() {
        let count = hook["refusals"].as_u64().unwrap();
        // No program comes as far as that: inode_permission is asked before.
        let is_second = hook["name"] == "file_open";
        // A name is refused only where there are too many: see `inv4_no_guest_uses_up_the_links_of_an_object`.
        let is_for_many = hook["name"] == "inode_link";
        assert_eq!(
            hook["attached"],
            count > 0 || is_second || is_for_many,
            "{hook}"
        );
    }
    // The lease of the guest is the last attempt of all.
    let last = &status["last_refusals"][0];
    let file = filesystem.path().join("guarded-Guest/lease");
    assert_eq!(last["hook"], "file_lock");
    assert_eq!(last["inode"], fs::metadata(file).unwrap().ino());
    assert_eq!(last["device"], status["filesystems"][0]["device"]);
    // A test runs in a thread of its name.
    assert_eq!(last["command"], "guard::task");
    assert_ne!(last["cgroup"], 0);
}

/// Attempts by calls that not every kernel has.
const NEWER_CALLS: [&str; 2] = ["file-setattr", "delegation"];

/// The hooks, each with an attempt that only it stops, in an order in which that is so.
const ALONE: [(&str, &str); 13] = [
    ("inode_permission", "access"),
    ("file_open", "open-write"),
    ("inode_setattr", "chmod"),
    ("inode_setxattr", "setxattr"),
    ("inode_removexattr", "removexattr"),
    ("inode_set_acl", "set-acl"),
    ("inode_remove_acl", "remove-acl"),
    ("inode_file_setattr", "file-setattr"),
    ("file_ioctl", "clear-mark"),
    ("file_ioctl_compat", "clear-mark-32-bit"),
    ("file_lock", "flock"),
    ("file_fcntl", "write-hint"),
    ("path_notify", "watch"),
];

/// So the test above can fail, for each hook.
#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn each_change_goes_through_once_its_hook_is_gone() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let store = filesystem.path().join("hash");
    fs::create_dir(&store).unwrap();
    let loaded = Guard::load(&store);
    let fresh = |name: &str| {
        let path = filesystem.path().join(name);
        drop(fs::remove_file(&path));
        prepare(&path);
        mark(&path);
        path
    };
    let attempt = |name: &str| {
        let (_, _, attempt) = ATTEMPTS.iter().find(|(other, ..)| *other == name).unwrap();
        attempt(&fresh(name))
    };
    for (hook, name) in ALONE {
        let pin = Path::new("/sys/fs/bpf/vhashify").join(format!("hook-{hook}"));
        if !pin.exists() {
            continue;
        }
        attempt(name).expect_err(name);
        fs::remove_file(pin).unwrap();
        // The kernel detaches the program a little later.
        let begun = Instant::now();
        while let Err(error) = attempt(name) {
            assert!(begun.elapsed() < Duration::from_mins(1), "{name}: {error}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    drop(loaded);
}
