//! Processes that mapped a file before it was replaced, found whatever way they see the guest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memmap2::Mmap;
use serde_json::Value;

use vhashify_testkit::built;
use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each};
use vhashify_testkit::program::{Host, output};

use crate::command_line::tree::write;

const LENGTH: usize = 1_000_000;

/// A mapping of this process, with all of it in memory.
fn map(path: &Path) -> Mmap {
    let file = File::open(path).unwrap();
    // SAFETY: nobody writes to the file: a run only replaces its name.
    #[allow(unsafe_code)]
    let mapping = unsafe { Mmap::map(&file) }.unwrap();
    assert!(mapping.iter().all(|&byte| byte == b'm'));
    mapping
}

fn old_copies(host: &Host) -> Value {
    host.call(["report"])["stores"][0]["old_copies"].clone()
}

/// What is said of one process.
fn of_process(old: &Value, number: u32) -> Option<&Value> {
    let all = old["processes"].as_array().unwrap();
    all.iter().find(|process| process["process"] == number)
}

/// Two guests with one file, of which the second's will be replaced.
fn two_guests(place: &Path) -> Host {
    let host = Host::new(place, 2);
    for guest in &host.guests {
        write(guest, "usr/lib/one.so", "m".repeat(LENGTH));
        write(guest, "usr/lib/two.so", "m".repeat(LENGTH - 1));
    }
    host
}

#[test]
fn a_file_that_was_mapped_before_its_unification_is_found_until_it_is_unmapped() {
    on_each(|filesystem| {
        let host = two_guests(filesystem.path());
        let mappings: Vec<Mmap> = host
            .guests
            .iter()
            .map(|guest| map(&guest.join("usr/lib/one.so")))
            .collect();
        assert!(
            old_copies(&host)["processes"]
                .as_array()
                .unwrap()
                .is_empty()
        );
        host.run(&[]);
        // Mapped now, it is the shared one.
        let shared = map(&host.guests[1].join("usr/lib/two.so"));

        let old = old_copies(&host);
        let process = of_process(&old, std::process::id()).expect("this process");
        let files = process["files"].as_array().unwrap();
        // Of one of the guests: the other's became the object.
        assert_eq!(files.len(), 1, "{old}");
        assert_eq!(files[0]["path"], "/usr/lib/one.so");
        assert_eq!(files[0]["is_older"], false);
        let bytes = files[0]["bytes"].as_u64().unwrap();
        assert!(bytes >= LENGTH as u64, "{old}");
        assert_eq!(old["bytes"], bytes);
        assert!(
            old["page_cache_bytes"].as_u64().unwrap() >= LENGTH as u64,
            "{old}"
        );
        let guest = process["guest"].as_str().unwrap();
        assert!(
            host.guests
                .iter()
                .any(|known| known.to_str() == Some(guest))
        );

        let text = output(&mut host.command(["report"]));
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(
            text.contains("a restart of these would free 1.0 MB of memory"),
            "{text}"
        );

        drop(mappings);
        drop(shared);
        assert!(of_process(&old_copies(&host), std::process::id()).is_none());
    });
}

#[test]
fn an_older_version_is_told_from_a_copy_and_a_foreign_file_is_not_told_at_all() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(filesystem.path());
    let path = host.guests[0].join("usr/lib/one.so");
    let private = write(&host.guests[0], "usr/lib/private.so", "m".repeat(50));
    let mappings = [map(&path), map(&private)];
    // As a package manager replaces files: another one is renamed over it.
    for guest in &host.guests {
        let new = write(guest, "usr/lib/one.so.new", "new".repeat(1000));
        fs::rename(new, guest.join("usr/lib/one.so")).unwrap();
    }
    fs::remove_file(&private).unwrap();
    host.run(&[]);
    let old = old_copies(&host);
    let process = of_process(&old, std::process::id()).expect("this process");
    assert_eq!(process["files"].as_array().unwrap().len(), 1, "{old}");
    assert_eq!(process["files"][0]["path"], "/usr/lib/one.so");
    assert_eq!(process["files"][0]["is_older"], true);
    drop(mappings);
}

/// A program that goes on until it is killed, in the guest with all that it needs.
fn put_sleep_into(guest: &Path) {
    let libraries = command(Command::new("ldd").arg("/bin/sleep"));
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    for file in libraries.chain([PathBuf::from("/bin/sleep")]) {
        let to = guest.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        command(Command::new("cp").args(["-Lp", "--"]).args([&file, &to]));
    }
}

/// A process of a guest, ended with this value.
struct Guest(Child);

impl Guest {
    /// `line` ends in a program that the guest is entered with.
    fn enter(line: &[&str], guest: &Path) -> Self {
        let mut command = Command::new(line[0]);
        command
            .args(&line[1..])
            .arg(guest)
            .args(["/bin/sleep", "600"])
            .stdin(Stdio::null());
        let this = Self(command.spawn().unwrap());
        wait_until(|| maps(&this.0.id().to_string(), "/bin/sleep"));
        this
    }
}

/// Whether a process maps a program, and its libraries.
fn maps(process: &str, program: &str) -> bool {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
    maps.contains(program) && maps.contains("libc.so")
}

fn wait_until(is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn processes_of_a_guest_are_found_in_a_chroot_and_in_a_mount_namespace_of_its_own() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        put_sleep_into(guest);
        fs::create_dir(guest.join("oldroot")).unwrap();
    }
    let pivot = r#"mount --bind "$0" "$0" && cd "$0" && pivot_root . oldroot && exec "$@""#;
    let ways: [&[&str]; 3] = [
        &["chroot"],
        &["unshare", "--mount", "chroot"],
        &["unshare", "--mount", "sh", "-c", pivot],
    ];
    let processes: Vec<Guest> = host
        .guests
        .iter()
        .flat_map(|guest| ways.iter().map(|way| Guest::enter(way, guest)))
        .collect();
    host.run(&[]);
    let old = old_copies(&host);
    // The guest whose files became the objects has nothing old.
    let found: Vec<&Value> = processes
        .iter()
        .filter_map(|process| of_process(&old, process.0.id()))
        .collect();
    assert_eq!(found.len(), ways.len(), "{old}");
    for process in found {
        assert_eq!(process["command"], "sleep");
        let files = process["files"].as_array().unwrap();
        let has = |name: &str| {
            files.iter().any(|file| {
                let path = file["path"].as_str().unwrap();
                path.starts_with('/') && path.ends_with(name)
            })
        };
        assert!(has("/bin/sleep") && has("/libc.so.6"), "{old}");
    }
}

/// Whether a report says of any process that it maps an old copy of this file.
fn tells_of(old: &Value, path: &str) -> bool {
    let processes = old["processes"].as_array().unwrap();
    processes.iter().any(|process| {
        let files = process["files"].as_array().unwrap();
        files.iter().any(|file| file["path"] == path)
    })
}

#[test]
fn a_process_in_a_directory_of_its_guest_is_found_by_the_mount_namespace_of_the_others() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        put_sleep_into(guest);
        put_sleep_into(&guest.join("jail"));
        fs::create_dir(guest.join("oldroot")).unwrap();
        // What the shell opens for a command that it does not wait for.
        write(guest, "dev/null", "");
    }
    // The guest's own root directory is that of the second process alone.
    let chroot = command(Command::new("sh").args(["-c", "command -v chroot"]));
    let line = format!(
        r#"mount --bind "$0" "$0" && cd "$0" && pivot_root . oldroot &&
           {{ /oldroot{} jail "$@" & exec "$@"; }}"#,
        chroot.trim()
    );
    let processes: Vec<Child> = host
        .guests
        .iter()
        .map(|guest| {
            let mut command = Command::new("unshare");
            command
                .args([
                    "--mount",
                    "--pid",
                    "--fork",
                    "--kill-child",
                    "sh",
                    "-c",
                    &line,
                ])
                .arg(guest)
                .args(["/bin/sleep", "600"])
                .stdin(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    let processes: Vec<Guest> = processes.into_iter().map(Guest).collect();
    let child = |process: &str| {
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        children.unwrap_or_default().trim().to_owned()
    };
    for process in &processes {
        let is_there = || {
            let first = child(&process.0.id().to_string());
            maps(&first, "/bin/sleep") && maps(&child(&first), "/jail/bin/sleep")
        };
        wait_until(is_there);
    }
    host.run(&[]);
    let old = old_copies(&host);
    assert!(tells_of(&old, "/bin/sleep"), "{old}");
    assert!(tells_of(&old, "/jail/bin/sleep"), "{old}");
}

/// A second place where a directory is seen, until this value is dropped.
struct Bound(PathBuf);

impl Bound {
    fn new(directory: &Path) -> Self {
        let name = format!("bound-{}", std::process::id());
        let place = built::scratch().join(name);
        fs::create_dir_all(&place).unwrap();
        command(
            Command::new("mount")
                .arg("--bind")
                .args([directory, &place]),
        );
        Self(place)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).status());
        drop(fs::remove_dir(&self.0));
    }
}

#[test]
fn a_process_that_sees_its_guest_at_another_place_is_found_by_its_root_directory() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        put_sleep_into(guest);
    }
    // Of the first guest one process is in its own place, of the second in another one: whichever's
    // files become the objects, the other's are old.
    for guest in &host.guests {
        let bound = Bound::new(guest);
        let process = Guest::enter(&["chroot"], &bound.0);
        host.run(&[]);
        let old = old_copies(&host);
        let is_found = of_process(&old, process.0.id()).is_some();
        let is_object = !tells_of(&old, "/bin/sleep");
        drop(process);
        drop(bound);
        if is_found {
            return;
        }
        assert!(is_object, "{old}");
        host.deunify(1, &[]);
    }
    panic!("neither guest's process is found");
}
