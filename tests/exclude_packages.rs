//! Package databases: what the managers' own tools wrote, and what a hostile guest might.
//!
//! `fixtures/packages/make.sh` says how the fixtures came to be. With `VHASHIFY_GUESTS` naming a
//! directory of debootstrapped guests, those are read as well.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in their helpers

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vhashify_packages::{
    PackageError, PackageFiles, PackageManager, ReadError, configuration_files,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/packages")
        .join(name)
}

fn read(vdir: &Path) -> Result<PackageFiles, PackageError> {
    let root = File::open(vdir).unwrap();
    configuration_files(root.as_fd(), vdir)
}

fn paths(names: &[&str]) -> BTreeSet<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn write(root: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

const RPM_FILES: [&str; 6] = [
    "/etc/sample1.conf",
    "/etc/sample1.d/two words.conf",
    "/etc/sample2.conf",
    "/etc/sample2.d/two words.conf",
    "/usr/share/sample1/site.conf",
    "/usr/share/sample2/site.conf",
];

#[test]
fn every_manager_yields_its_configuration_files() {
    let dpkg = [
        "/etc/kept.conf",
        "/etc/kept two.conf",
        "/etc/removed.conf",
        "/etc/removed two.conf",
    ];
    let apk = [
        "/etc/crontabs/root",
        "/etc/motd",
        "/etc/sample/two words.conf",
        "/opt/sample/conf/a.conf",
    ];
    let pacman = ["/etc/sample.conf", "/etc/two words.conf"];
    for (name, manager, files) in [
        ("dpkg", PackageManager::Dpkg, &dpkg[..]),
        ("rpm-sqlite", PackageManager::Rpm, &RPM_FILES),
        ("rpm-wal", PackageManager::Rpm, &RPM_FILES),
        ("rpm-ndb", PackageManager::Rpm, &RPM_FILES),
        ("rpm-bdb", PackageManager::Rpm, &RPM_FILES),
        ("rpm-bdb-big", PackageManager::Rpm, &RPM_FILES),
        ("apk", PackageManager::Apk, &apk),
        ("pacman", PackageManager::Pacman, &pacman),
    ] {
        let found = read(&fixture(name)).unwrap();
        assert_eq!(found.managers, [manager], "{name}");
        assert_eq!(found.files, paths(files), "{name}");
    }
}

#[test]
fn the_log_is_needed_for_the_last_package() {
    let guest = tempfile::tempdir().unwrap();
    let name = "var/lib/rpm/rpmdb.sqlite";
    write(
        guest.path(),
        name,
        &fs::read(fixture("rpm-wal").join(name)).unwrap(),
    );
    // sample1 is the one that only the log knows.
    let files = RPM_FILES.map(|file| file.replace("sample1", "sample2"));
    let files = files.each_ref().map(String::as_str);
    assert_eq!(read(guest.path()).unwrap().files, paths(&files));
}

#[test]
fn a_guest_without_a_manager_is_no_error() {
    let guest = tempfile::tempdir().unwrap();
    assert_eq!(read(guest.path()).unwrap(), PackageFiles::default());
}

#[test]
fn distroless_images_have_a_file_for_each_package() {
    let guest = tempfile::tempdir().unwrap();
    let stanza = b"Package: base\nConffiles:\n /etc/issue 00 \nVersion: 1\n";
    write(guest.path(), "var/lib/dpkg/status.d/base", stanza);
    write(
        guest.path(),
        "var/lib/dpkg/status.d/base.md5sums",
        b"00  etc/other\n",
    );
    assert_eq!(read(guest.path()).unwrap().files, paths(&["/etc/issue"]));
}

#[test]
fn packages_that_are_not_installed_have_no_configuration() {
    let guest = tempfile::tempdir().unwrap();
    let status = b"Package: a\nConffiles:\n /etc/a 00\nStatus: purge ok not-installed\n\n\
        Package: b\nStatus: install ok unpacked\nConffiles:\n /etc/b newconffile\n";
    write(guest.path(), "var/lib/dpkg/status", status);
    assert_eq!(read(guest.path()).unwrap().files, paths(&["/etc/b"]));
}

#[test]
fn links_inside_the_guest_are_followed_inside_the_guest() {
    let guest = tempfile::tempdir().unwrap();
    let root = guest.path();
    let packages = fs::read(fixture("rpm-bdb/var/lib/rpm/Packages")).unwrap();
    write(root, "usr/lib/sysimage/rpm/Packages", &packages);
    fs::create_dir_all(root.join("var/lib")).unwrap();
    // Absolute, and up beyond the root: on the host both would lead elsewhere.
    symlink("/../usr/lib/sysimage/rpm", root.join("var/lib/rpm")).unwrap();
    assert_eq!(read(root).unwrap().files, paths(&RPM_FILES));
}

#[test]
fn a_configuration_file_is_known_by_its_real_path_too() {
    let guest = tempfile::tempdir().unwrap();
    let root = guest.path();
    write(root, "usr/lib/tool/tool.conf", b"");
    symlink("usr/lib", root.join("lib")).unwrap();
    write(
        root,
        "var/lib/dpkg/status",
        b"Conffiles:\n /lib/tool/tool.conf 00\n",
    );
    let expected = paths(&["/lib/tool/tool.conf", "/usr/lib/tool/tool.conf"]);
    assert_eq!(read(root).unwrap().files, expected);
}

#[test]
fn links_do_not_lead_out_of_the_guest() {
    let outside = tempfile::tempdir().unwrap();
    let status = write(outside.path(), "status", b"Conffiles:\n /etc/secret 00\n");
    let guest = tempfile::tempdir().unwrap();
    fs::create_dir_all(guest.path().join("var/lib/dpkg")).unwrap();
    symlink(&status, guest.path().join("var/lib/dpkg/status")).unwrap();
    assert_eq!(read(guest.path()).unwrap(), PackageFiles::default());
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let fifo = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let socket = |path: &Path| drop(UnixListener::bind(path).unwrap());
    let directory = |path: &Path| fs::create_dir(path).unwrap();
    for make in [&fifo as &dyn Fn(&Path), &socket, &directory] {
        let guest = tempfile::tempdir().unwrap();
        let path = guest.path().join("var/lib/dpkg/status");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        make(&path);
        let error = read(guest.path()).unwrap_err();
        assert!(
            matches!(&error, PackageError::Read(ReadError::NotAFile { path: named }) if *named == path),
            "{error}"
        );
    }
}

#[test]
fn a_huge_sparse_file_is_refused_unread() {
    let guest = tempfile::tempdir().unwrap();
    let path = write(guest.path(), "var/lib/rpm/Packages", b"");
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert!(matches!(
        read(guest.path()).unwrap_err(),
        PackageError::Read(ReadError::TooLarge { .. })
    ));
}

#[test]
fn a_view_in_place_of_the_table_is_not_run() {
    for schema in [
        "CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS \
         (SELECT 1 UNION ALL SELECT blob + 1 FROM n) SELECT blob FROM n",
        "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob AS (zeroblob(1000000000)))",
        "CREATE VIRTUAL TABLE Packages USING fts5(blob)",
    ] {
        let guest = tempfile::tempdir().unwrap();
        let path = write(guest.path(), "var/lib/rpm/rpmdb.sqlite", b"");
        rusqlite::Connection::open(path)
            .unwrap()
            .execute_batch(schema)
            .unwrap();
        let error = read(guest.path()).unwrap_err();
        assert!(matches!(error, PackageError::Database { .. }), "{error}");
    }
}

#[test]
fn nothing_is_written_in_the_guest() {
    let guest = tempfile::tempdir().unwrap();
    for name in ["rpmdb.sqlite", "rpmdb.sqlite-wal"] {
        let name = format!("var/lib/rpm/{name}");
        write(
            guest.path(),
            &name,
            &fs::read(fixture("rpm-wal").join(&name)).unwrap(),
        );
    }
    let listing = || {
        let list = |entry: fs::DirEntry| (entry.file_name(), fs::read(entry.path()).unwrap());
        let entries = fs::read_dir(guest.path().join("var/lib/rpm")).unwrap();
        entries
            .map(|entry| list(entry.unwrap()))
            .collect::<BTreeSet<_>>()
    };
    let before = listing();
    read(guest.path()).unwrap();
    assert_eq!(before, listing());
}

#[test]
fn names_that_share_one_directory_do_not_multiply() {
    // One header, one directory name of 4 KB, and as many basenames as asked for.
    let count = 600_000_u32;
    let directory = [b"/".repeat(4000), vec![0]].concat();
    let sections = [
        (
            1037_u32,
            4_u32,
            count,
            1_u32.to_be_bytes().repeat(count as usize),
        ),
        (1116, 4, count, vec![0; 4 * count as usize]),
        (1117, 8, count, b"a\0".repeat(count as usize)),
        (1118, 8, 1, directory),
    ];
    let mut index = Vec::new();
    let mut data = Vec::new();
    for (tag, kind, count, bytes) in sections {
        for number in [tag, kind, u32::try_from(data.len()).unwrap(), count] {
            index.extend(number.to_be_bytes());
        }
        data.extend(bytes);
    }
    let lengths = [4_u32, u32::try_from(data.len()).unwrap()]
        .map(u32::to_be_bytes)
        .concat();
    let blob = [lengths, index, data].concat();
    let guest = tempfile::tempdir().unwrap();
    let path = write(guest.path(), "var/lib/rpm/rpmdb.sqlite", b"");
    let database = rusqlite::Connection::open(path).unwrap();
    database
        .execute_batch("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
        .unwrap();
    database
        .execute("INSERT INTO Packages VALUES (1, ?)", [blob])
        .unwrap();
    drop(database);
    let started = Instant::now();
    assert!(matches!(
        read(guest.path()).unwrap_err(),
        PackageError::Database { .. }
    ));
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn rows_that_share_their_pages_do_not_multiply() {
    const PAGE: usize = 512;
    /// Three bytes of length, the row's number, 39 bytes of the row, and the page with the rest.
    const CELL: usize = 47;
    let guest = tempfile::tempdir().unwrap();
    let path = write(guest.path(), "var/lib/rpm/rpmdb.sqlite", b"");
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch(
            "PRAGMA page_size = 512; \
             CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)",
        )
        .unwrap();
    // Zeros are a header without entries.
    database
        .execute("INSERT INTO Packages VALUES (1, ?)", [vec![0; 41_134]])
        .unwrap();
    drop(database);
    assert_eq!(read(guest.path()).unwrap().files, BTreeSet::new());

    let mut file = fs::read(&path).unwrap();
    let leaf = &mut file[PAGE..2 * PAGE];
    let cell = leaf[PAGE - CELL..].to_vec();
    assert_eq!((leaf[0], leaf[4], cell[3]), (13, 1, 1));
    for row in 1..=8_u8 {
        let at = PAGE - CELL * usize::from(row);
        leaf[at..at + CELL].copy_from_slice(&cell);
        leaf[at + 3] = row;
        let start = u16::try_from(at).unwrap().to_be_bytes();
        leaf[4] = row;
        leaf[5..7].copy_from_slice(&start);
        leaf[6 + 2 * usize::from(row)..][..2].copy_from_slice(&start);
    }
    fs::write(&path, file).unwrap();
    let error = read(guest.path()).unwrap_err();
    assert!(error.to_string().contains("share"), "{error}");
}

#[test]
fn a_chain_of_pages_in_a_circle_ends() {
    let guest = tempfile::tempdir().unwrap();
    let mut file = fs::read(fixture("rpm-bdb/var/lib/rpm/Packages")).unwrap();
    for page in file.chunks_exact_mut(4096).filter(|page| page[25] == 7) {
        let own: [u8; 4] = page[8..12].try_into().unwrap();
        page[16..20].copy_from_slice(&own);
        page[22..24].copy_from_slice(&[1, 0]);
    }
    write(guest.path(), "var/lib/rpm/Packages", &file);
    let error = read(guest.path()).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
}

/// Every fixture's files, by their name in the guest.
fn all_files() -> Vec<(String, Vec<u8>)> {
    let names = [
        "dpkg/var/lib/dpkg/status",
        "rpm-sqlite/var/lib/rpm/rpmdb.sqlite",
        "rpm-wal/var/lib/rpm/rpmdb.sqlite-wal",
        "rpm-ndb/usr/lib/sysimage/rpm/Packages.db",
        "rpm-bdb/var/lib/rpm/Packages",
        "rpm-bdb-big/var/lib/rpm/Packages",
        "apk/lib/apk/db/installed",
        "apk/etc/apk/protected_paths.d/sample.list",
        "pacman/var/lib/pacman/local/sample-1-1/files",
    ];
    names
        .iter()
        .map(|name| ((*name).to_owned(), fs::read(fixture(name)).unwrap()))
        .collect()
}

/// A guest that is a copy of the fixture, with one file replaced by each of `variants` in turn.
fn survive(name: &str, variants: impl Iterator<Item = Vec<u8>>) {
    let (fixture_name, inside) = name.split_once('/').unwrap();
    let guest = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .args(["-rT", "--"])
        .args([&fixture(fixture_name), guest.path()])
        .status()
        .unwrap();
    assert!(copied.success());
    for bytes in variants {
        write(guest.path(), inside, &bytes);
        let started = Instant::now();
        // Anything but a panic or a hang is right: most damage is told apart, some is not.
        drop(read(guest.path()));
        assert!(started.elapsed() < Duration::from_secs(10), "{name}");
    }
}

#[test]
fn truncated_databases_are_survived() {
    for (name, bytes) in all_files() {
        let step = bytes.len() / 150 + 1;
        let ends = (0..bytes.len()).step_by(step).chain(0..bytes.len().min(64));
        survive(&name, ends.map(|end| bytes[..end].to_vec()));
    }
}

#[test]
fn flipped_bits_are_survived() {
    // A fixed sequence, so that a failure comes back: xorshift, by Marsaglia.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap()
    };
    for (name, bytes) in all_files() {
        let variants = (0..400).map(|round| {
            let mut bytes = bytes.clone();
            // Heads are where numbers steer the parser; half of the rounds go there.
            let reach = if round % 2 == 0 {
                bytes.len().min(600)
            } else {
                bytes.len()
            };
            for _ in 0..=random() % 4 {
                let at = random() % reach;
                bytes[at] ^= 1 << (random() % 8);
                if random() % 4 == 0 {
                    bytes[at] = 0xff;
                }
            }
            bytes
        });
        survive(&name, variants);
    }
}

#[test]
fn real_guests_are_read() {
    let mut count = 0;
    for entry in fs::read_dir(vhashify_testkit::guests::pristine()).unwrap() {
        let vdir = entry.unwrap().path();
        if !vdir.join("var/lib/dpkg/status").exists() {
            continue;
        }
        let found = read(&vdir).unwrap();
        assert_eq!(found.managers, [PackageManager::Dpkg]);
        for file in ["/etc/debian_version", "/etc/pam.conf"] {
            assert!(
                found.files.contains(file.as_bytes()),
                "{file} in {}",
                vdir.display()
            );
        }
        // Counted in another way: lines of a path and the 32 digits of a hash.
        let status = fs::read_to_string(vdir.join("var/lib/dpkg/status")).unwrap();
        let is_conffile = |line: &&str| {
            let hash = line.split(' ').nth(2).unwrap_or("");
            line.starts_with(" /etc/") && hash.len() == 32
        };
        let lines = status.lines().filter(is_conffile).count();
        let listed = found
            .files
            .iter()
            .filter(|file| file.starts_with(b"/etc/"))
            .count();
        assert!(lines > 50 && listed >= lines, "{listed} of {lines}");
        count += 1;
    }
    assert!(count > 1, "there are two Debian guests");
}
