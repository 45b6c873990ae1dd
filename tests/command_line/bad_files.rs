//! Files that cannot be read, names of any bytes, and filesystems that take nothing more.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::program::{Host, output, vhashify};
use vhashify_testkit::snapshot::{Snapshot, check_store};

use super::tree::{files, is_shared, write};

fn two_guests(filesystem: &Filesystem) -> Host {
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        write(guest, "usr/bin/tool", "the same");
    }
    host
}

/// A run that goes on to its end, though some files fail: status 1, one line for each of `failed`,
/// the same in JSON, and the rest is unified.
fn goes_on(host: &Host, failed: &[(&Path, &str)]) {
    let done = output(
        host.run_command(&["--format", "json"])
            .env("RUST_BACKTRACE", "0"),
    );
    let lines = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{:?} {lines}", done.status);
    assert_eq!(lines.lines().count(), failed.len(), "{lines}");
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let errors = report["errors"].as_array().unwrap();
    assert_eq!(errors.len(), failed.len(), "{report}");
    for (path, reason) in failed {
        let path = path.to_str().unwrap();
        let start = format!("vhashify: {path}: ");
        let line = lines.lines().find(|line| line.starts_with(&start));
        assert!(
            line.is_some_and(|line| line.contains(reason)),
            "{path}, {reason:?} is not in {lines}"
        );
        let error = errors.iter().find(|error| error["path"] == path).unwrap();
        assert!(
            error["reason"].as_str().unwrap().contains(reason),
            "{error}"
        );
    }
    let tools = [0, 1].map(|guest| host.guests[guest].join("usr/bin/tool"));
    assert!(is_shared(&tools[0], &tools[1]), "the run did not go on");
    check_store(&host.store());
}

/// Changes a few bytes of a file's content behind the filesystem's back; Btrfs, which keeps
/// checksums, will refuse to read it.
fn damage(image: &Path, mark: &str) {
    // Far quicker than a search in a test that is not optimised.
    let found = command(Command::new("grep").args(["-abo", "-F", mark]).arg(image));
    let mut file = File::options().write(true).open(image).unwrap();
    for line in found.lines() {
        let at = line.split_once(':').unwrap().0.parse().unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(b"DAMAGED").unwrap();
    }
}

/// Content that the disk will lose in the middle, for it is found by its `mark`.
fn content(size: usize, mark: &str) -> Vec<u8> {
    let mut content = b"x".repeat(size);
    content[size / 2..][..mark.len()].copy_from_slice(mark.as_bytes());
    content
}

#[test]
fn a_file_that_the_disk_does_not_give_is_counted_and_the_run_goes_on() {
    let filesystem = Filesystem::new(Kind::Btrfs);
    let host = two_guests(&filesystem);
    // Read in one piece, in pieces, and through a mapping.
    let sizes = [50_000, 700_000, 20_000_000];
    for size in sizes {
        for (guest, mark) in host.guests.iter().zip(["left as it is:", "to be damaged:"]) {
            write(
                guest,
                format!("usr/lib/{size}"),
                content(size, &format!("{mark} {size}")),
            );
        }
    }
    let tools = host
        .guests
        .iter()
        .map(|guest| files(&guest.join("usr/bin")));
    let before: Vec<Snapshot> = tools.collect();
    filesystem.while_unmounted(|image| {
        for size in sizes {
            damage(image, &format!("to be damaged: {size}"));
        }
    });
    let lost = sizes.map(|size| host.guests[1].join(format!("usr/lib/{size}")));
    for path in &lost {
        let error = fs::read(path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(5), "the damage is none: {error}");
    }
    let failed: Vec<(&Path, &str)> = lost
        .iter()
        .map(|path| {
            (
                path.as_path(),
                "input/output error; look at the kernel's log (dmesg)",
            )
        })
        .collect();
    goes_on(&host, &failed);
    for (guest, before) in host.guests.iter().zip(before) {
        before.assert_same(&files(&guest.join("usr/bin")), "beside a damaged file");
    }
}

#[test]
fn an_inode_or_directory_that_is_damaged_is_counted_and_the_run_goes_on() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    let file = write(&host.guests[0], "usr/share/lost", "lost");
    let top = write(&host.guests[0], "lost", "lost");
    write(&host.guests[0], "opt/gone/file", "gone");
    let directory = host.guests[0].join("opt/gone");
    filesystem.while_unmounted(|image| {
        for path in [&file, &top, &directory] {
            let below = path.strip_prefix(filesystem.path()).unwrap();
            let request = format!("clri /{}", below.display());
            command(
                Command::new("debugfs")
                    .args(["-w", "-R", &request])
                    .arg(image),
            );
        }
    });
    goes_on(
        &host,
        &[
            (&file, "structure needs cleaning"),
            (&top, "structure needs cleaning"),
            (&directory, "structure needs cleaning"),
        ],
    );
}

#[test]
fn inv1_names_of_any_bytes_are_unified_like_others() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    let long = b"n".repeat(255);
    let names: [&[u8]; 8] = [
        b"caf\xe9",
        b"two\nlines",
        b" ",
        b"-n",
        b"\xff\xfe",
        b"back\\slash\r",
        b"\x1b[31mred",
        &long,
    ];
    for guest in &host.guests {
        for (number, name) in names.iter().enumerate() {
            let directory = Path::new(OsStr::from_bytes(b"di\nr\xe9"));
            write(
                guest,
                directory.join(OsStr::from_bytes(name)),
                format!("file {number}"),
            );
        }
    }
    let before: Vec<Snapshot> = host.guests.iter().map(|guest| files(guest)).collect();
    let report = host.run(&[]);
    assert_eq!(report["files_unified"], names.len() + 1);
    for (guest, before) in host.guests.iter().zip(&before) {
        before.assert_same(&files(guest), "odd names");
    }
    host.call(["verify", "--deep"]);
    let odd = host.guests[0].join(OsStr::from_bytes(b"di\nr\xe9/two\nlines"));
    let other = host.guests[1].join(OsStr::from_bytes(b"di\nr\xe9/two\nlines"));
    assert!(is_shared(&odd, &other));
    let mut command = host.command(["deunify", "--manually", "--format", "json"]);
    command
        .arg(&host.guests[0])
        .arg(OsStr::from_bytes(b"/di\nr\xe9/two\nlines"));
    let done = output(&mut command);
    assert!(done.status.success(), "{done:?}");
    assert!(!is_shared(&odd, &other));
}

/// Fills a filesystem to its last block; the first of the files has most of it.
pub fn fill(place: &Path) -> Vec<PathBuf> {
    let mut ballast = Vec::new();
    // Smaller and smaller, and then again: blocks that were freed are free at the next commit.
    for (number, size) in [20, 16, 12, 10, 10, 10].into_iter().enumerate() {
        let path = place.join(format!("ballast{number}"));
        let Ok(mut file) = File::create(&path) else {
            continue;
        };
        ballast.push(path);
        let block = vec![b'b'; 1 << size];
        loop {
            match file.write_all(&block).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                    break;
                }
            }
        }
        rustix::fs::syncfs(File::open(place).unwrap()).unwrap();
    }
    ballast
}

#[test]
fn inv1_inv2_a_full_disk_is_reported_and_no_guest_feels_it() {
    let filesystem = Filesystem::with_options(Kind::Ext4, 16 << 20, "");
    let state = tempfile::tempdir().unwrap();
    let host = two_guests(&filesystem);
    for guest in &host.guests {
        for number in 0..50 {
            write(
                guest,
                format!("usr/lib/{number}"),
                format!("library {number}").repeat(200),
            );
        }
    }
    let ballast = fill(filesystem.path());
    let before: Vec<Snapshot> = host
        .guests
        .iter()
        .map(|guest| Snapshot::of(guest))
        .collect();
    let run = || output(&mut run_elsewhere(&host, state.path()));
    let done = run();
    let lines = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{lines}");
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let errors = report["errors"].as_array().unwrap();
    assert!(!errors.is_empty());
    assert_eq!(lines.lines().count(), errors.len(), "{lines}");
    for line in lines.lines() {
        let advice = "no space left on device; free some space there";
        assert!(line.contains(advice), "{line}");
        assert!(line.contains(filesystem.path().to_str().unwrap()), "{line}");
    }
    assert!(
        errors.len() <= 4,
        "it stops instead of failing at every file: {lines}"
    );
    for (guest, before) in host.guests.iter().zip(&before) {
        before.assert_same(&Snapshot::of(guest), "a full disk");
    }
    check_store(&host.store());

    for path in ballast {
        fs::remove_file(path).unwrap();
    }
    let before: Vec<Snapshot> = host.guests.iter().map(|guest| files(guest)).collect();
    let done = run();
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    for (guest, before) in host.guests.iter().zip(&before) {
        before.assert_same(&files(guest), "with room again");
    }
    let tools = [0, 1].map(|guest| host.guests[guest].join("usr/bin/tool"));
    assert!(is_shared(&tools[0], &tools[1]));
    assert_eq!(check_store(&host.store()).len(), 51);
}

/// A run over all guests that keeps its index in `state`, off the filesystem under test.
fn run_elsewhere(host: &Host, state: &Path) -> Command {
    let mut command = vhashify();
    command.args([
        "--protect",
        "none",
        "--manually",
        "--jobs",
        "2",
        "--format",
        "json",
        "--destination",
    ]);
    command
        .arg(host.store())
        .args(&host.guests)
        .arg("--state-dir")
        .arg(state);
    command
}

#[test]
fn inv1_inv2_a_disk_that_becomes_full_in_the_middle_leaves_every_file_as_it_was() {
    let filesystem = Filesystem::with_options(Kind::Ext4, 16 << 20, "");
    let state = tempfile::tempdir().unwrap();
    let host = two_guests(&filesystem);
    for guest in &host.guests {
        for number in 0..200 {
            write(
                guest,
                format!("usr/lib/{number}"),
                format!("library {number}"),
            );
        }
    }
    let ballast = fill(filesystem.path());
    let before: Vec<Snapshot> = host.guests.iter().map(|guest| files(guest)).collect();
    let (mut round, mut in_the_middle) = (0, 0);
    loop {
        let done = output(&mut run_elsewhere(&host, state.path()));
        let lines = String::from_utf8(done.stderr).unwrap();
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        for (guest, before) in host.guests.iter().zip(&before) {
            before.assert_same(&files(guest), &format!("round {round}"));
        }
        check_store(&host.store());
        if done.status.success() {
            assert_eq!(report["errors"], serde_json::json!([]));
            break;
        }
        assert_eq!(done.status.code(), Some(1), "{lines}");
        let advice = "no space left on device; free some space there";
        assert!(lines.contains(advice), "{lines}");
        in_the_middle += usize::from(report["files_unified"] != 0);
        // The next round has room for a few more of the store's directories.
        let file = File::options().write(true).open(&ballast[0]).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - (8 << 10)).unwrap();
        file.sync_all().unwrap();
        round += 1;
    }
    assert!(in_the_middle > 0, "no round came to the middle");
    assert_eq!(check_store(&host.store()).len(), 201);
}

#[test]
fn a_full_disk_is_reported_by_deunify_and_the_guest_keeps_its_files() {
    let filesystem = Filesystem::with_options(Kind::Ext4, 16 << 20, "");
    let host = two_guests(&filesystem);
    for guest in &host.guests {
        write(guest, "usr/lib/large", "x".repeat(200_000));
    }
    host.run(&[]);
    fill(filesystem.path());
    let before = Snapshot::of(&host.guests[0]);
    let guest = host.guests[0].to_str().unwrap();
    let done = output(&mut host.command(["deunify", "--manually", guest]));
    let lines = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{lines}");
    let large = host.guests[0].join("usr/lib/large");
    assert!(lines.contains(large.to_str().unwrap()), "{lines}");
    assert!(
        lines.contains("no space left on device; free some space"),
        "{lines}"
    );
    before.assert_same(&Snapshot::of(&host.guests[0]), "a full disk");
    let store = check_store(&host.store());
    assert_eq!(store.len(), 2);
}

#[test]
fn a_filesystem_that_becomes_read_only_is_reported_by_every_command_that_writes() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let state = tempfile::tempdir().unwrap();
    let host = two_guests(&filesystem);
    host.run(&[]);
    // One object that no guest uses, for gc.
    for guest in &host.guests {
        write(guest, "usr/old", "old");
    }
    host.run(&[]);
    for guest in &host.guests {
        fs::remove_file(guest.join("usr/old")).unwrap();
    }
    filesystem.remount("ro");
    let before = Snapshot::of(filesystem.path());
    let on_it = filesystem.path().to_str().unwrap().to_owned();
    for arguments in [
        &["deunify", "--manually", host.guests[0].to_str().unwrap()][..],
        &["gc"],
    ] {
        let mut command = vhashify();
        command
            .args(arguments)
            .arg("--destination")
            .arg(host.store());
        command.arg("--state-dir").arg(state.path());
        let done = output(&mut command);
        let lines = String::from_utf8(done.stderr).unwrap();
        assert!(matches!(done.status.code(), Some(1 | 2)), "{lines}");
        assert_eq!(lines.lines().count(), 1, "{lines}");
        for word in [&on_it[..], "read-only file", "mount"] {
            assert!(lines.contains(word), "{word:?} is not in {lines}");
        }
        before.assert_same(&Snapshot::of(filesystem.path()), "read-only");
    }
}

/// In the root directory as in any other.
#[test]
fn a_leftover_that_cannot_be_decided_is_named_by_its_whole_path() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    let name = ".vhashify-00000000000000000000000000000000";
    for place in ["", "usr/"] {
        write(&host.guests[0], format!("{place}{name}"), "a guest's own");
    }
    let done = output(&mut host.run_command(&[]));
    let said = String::from_utf8(done.stderr).unwrap();
    for place in ["", "usr/"] {
        let path = host.guests[0].join(format!("{place}{name}"));
        let start = format!("vhashify: {}: ", path.display());
        assert!(said.contains(&start), "{start} is not in {said}");
    }
}
