//! Processes that mapped a file before it was replaced, found whatever way they see the guest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use memmap2::Mmap;
use serde_json::Value;

use crate::support::filesystem::{Filesystem, Kind, command, on_each};
use crate::support::program::{Host, output};
use crate::tree::write;

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
        // Until it is the guest's program, with its libraries.
        let begun = Instant::now();
        loop {
            let maps = fs::read_to_string(format!("/proc/{}/maps", this.0.id()));
            let maps = maps.unwrap_or_default();
            if maps.contains("/bin/sleep") && maps.contains("libc.so") {
                return this;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{maps}");
            std::thread::sleep(Duration::from_millis(10));
        }
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
