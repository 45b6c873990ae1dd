//! An index that cannot be used is made anew with a warning, or the error says why it cannot; it
//! is a cache, and nothing else depends on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::program::{Host, output, spawn};
use vhashify_testkit::snapshot::{Snapshot, check_store};

use super::still::refused_untouched;
use super::tree::{files, is_shared, write};

/// A host whose guests are unified, and its index.
fn indexed(filesystem: &Filesystem) -> (Host, PathBuf) {
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        write(guest, "usr/bin/tool", "the same");
        write(guest, "usr/lib/large", "x".repeat(100_000));
    }
    host.run(&[]);
    let indexes: Vec<PathBuf> = fs::read_dir(host.state())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(indexes.len(), 1, "one file for one store");
    let index = indexes[0].clone();
    (host, index)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

type Damage = fn(&Path);

/// What may have become of an index.
const DAMAGES: [(&str, Damage); 8] = [
    ("empty", |index| fs::write(index, "").unwrap()),
    ("truncated", |index| {
        let length = fs::metadata(index).unwrap().len();
        let file = fs::File::options().write(true).open(index).unwrap();
        file.set_len(length / 2).unwrap();
    }),
    ("cut to its head", |index| {
        let file = fs::File::options().write(true).open(index).unwrap();
        file.set_len(100).unwrap();
    }),
    ("overwritten", |index| {
        let length = usize::try_from(fs::metadata(index).unwrap().len()).unwrap();
        fs::write(index, b"no index\n".repeat(length / 9)).unwrap();
    }),
    ("damaged after its head", |index| {
        let mut bytes = fs::read(index).unwrap();
        bytes[4096..].fill(0xa5);
        fs::write(index, bytes).unwrap();
    }),
    ("of a newer database", |index| {
        // The version of the file format is the first byte of both commit slots.
        let mut bytes = fs::read(index).unwrap();
        bytes[64] = 99;
        bytes[192] = 99;
        fs::write(index, bytes).unwrap();
    }),
    ("of a newer version", |index| {
        set_meta(index, "format", &99_u32.to_le_bytes());
    }),
    ("of another store", |index| {
        set_meta(index, "store", b"/elsewhere");
    }),
];

fn set_meta(index: &Path, key: &str, value: &[u8]) {
    const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
    let database = Database::open(index).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(META)
        .unwrap()
        .insert(key, value)
        .unwrap();
    transaction.commit().unwrap();
}

#[test]
fn inv7_an_unusable_index_is_made_anew_with_one_warning() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for (name, damage) in DAMAGES {
        for entry in fs::read_dir(filesystem.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::remove_dir_all(path).unwrap();
        }
        let (host, index) = indexed(&filesystem);
        damage(&index);
        let guests = host
            .guests
            .iter()
            .map(|guest| write(guest, "usr/new", "new"));
        let new: Vec<PathBuf> = guests.collect();
        let before = files(&host.guests[0]);

        let done = output(&mut host.run_command(&[]));
        let warning = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(0), "{name}: {warning}");
        assert_eq!(warning.lines().count(), 1, "{name}: {warning}");
        for word in [text(&index), "cannot be used", "made anew"] {
            assert!(
                warning.contains(word),
                "{name}: {word:?} is not in {warning}"
            );
        }
        assert!(!warning.contains("os error"), "{name}: {warning}");
        assert!(is_shared(&new[0], &new[1]), "{name}");
        assert_eq!(
            check_store(&host.store()).len(),
            3,
            "{name}: objects are found again"
        );
        before.assert_same(&files(&host.guests[0]), name);

        let next = output(&mut host.run_command(&[]));
        assert_eq!(next.stderr, b"", "{name}: the next run has a whole index");
        host.call(["verify", "--deep", "--repair"]);
        host.call(["verify"]);
    }
}

#[test]
fn inv7_a_row_that_was_lost_is_written_again_by_a_run_with_nothing_to_do() {
    const INODES: TableDefinition<u64, &[u8]> = TableDefinition::new("inodes");
    let filesystem = Filesystem::new(Kind::Ext4);
    let (host, index) = indexed(&filesystem);
    let database = Database::open(&index).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut inodes = transaction.open_table(INODES).unwrap();
        assert!(inodes.pop_first().unwrap().is_some());
    }
    transaction.commit().unwrap();
    drop(database);
    let found = output(&mut host.command(["verify"]));
    assert_eq!(found.status.code(), Some(1), "the loss is seen");
    host.run(&[]);
    host.call(["verify"]);
}

/// A damaged key stands where none like it is looked for, and hides those that come after it.
#[test]
fn inv7_a_key_that_was_damaged_is_no_obstacle_to_the_rows_beside_it() {
    const LINKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("links");
    let filesystem = Filesystem::new(Kind::Ext4);
    for damaged in [0x20, 0xff] {
        let (host, index) = indexed(&filesystem);
        let database = Database::open(&index).unwrap();
        let first = {
            let transaction = database.begin_read().unwrap();
            let links = transaction.open_table(LINKS).unwrap();
            let (key, _) = links.first().unwrap().unwrap();
            key.value().to_vec()
        };
        drop(database);
        let mut bytes = fs::read(&index).unwrap();
        let places: Vec<usize> = (0..bytes.len() - first.len())
            .filter(|&at| bytes[at..].starts_with(&first))
            .collect();
        assert!(!places.is_empty());
        for place in places {
            // The number of a guest that there is not.
            bytes[place] = damaged;
        }
        fs::write(&index, bytes).unwrap();
        let found = output(&mut host.command(["verify"]));
        assert_eq!(found.status.code(), Some(1), "the damage is seen");
        host.run(&[]);
        host.call(["verify"]);
        fs::remove_dir_all(host.state()).unwrap();
    }
}

#[test]
fn inv7_other_commands_do_without_an_index_that_is_damaged() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let (host, index) = indexed(&filesystem);
    fs::write(&index, "no index").unwrap();
    assert_eq!(host.run(&["-n"])["files_unified"], 0);
    assert_eq!(host.call(["gc"])["objects"], 2);
    host.call(["report"]);
    assert_eq!(
        fs::read(&index).unwrap(),
        b"no index",
        "none of these is to mend it"
    );
    let report = host.call(["verify", "--repair"]);
    assert_eq!(report["errors"], serde_json::json!([]));
    host.call(["verify", "--deep"]);
}

#[test]
fn verify_needs_an_index_only_to_repair_it() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let (host, index) = indexed(&filesystem);
    fs::remove_dir_all(host.state()).unwrap();
    fs::write(host.state(), "").unwrap();
    host.call(["verify", "--deep"]);
    let mut command = host.command(["verify", "--repair"]);
    let words = [
        text(index.parent().unwrap()),
        "cannot be made",
        "--state-dir",
    ];
    refused_untouched(filesystem.path(), &mut command, 2, &words);
}

#[test]
fn a_damaged_index_is_not_spoken_of_quietly() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let (host, index) = indexed(&filesystem);
    fs::write(&index, "no index").unwrap();
    let done = output(&mut host.run_command(&["-q"]));
    assert!(done.status.success());
    assert_eq!(done.stderr, b"");
}

#[test]
fn an_index_that_cannot_be_written_stops_the_run() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let (host, index) = indexed(&filesystem);
    let guests = host
        .guests
        .iter()
        .map(|guest| write(guest, "usr/new", "new"));
    let new: Vec<PathBuf> = guests.collect();
    let refuses = |reason: &str| {
        let words = [text(&index), reason, "--state-dir"];
        refused_untouched(filesystem.path(), &mut host.run_command(&[]), 2, &words);
    };
    command(Command::new("chattr").arg("+i").arg(&index));
    refuses("operation not permitted");
    command(Command::new("chattr").arg("-i").arg(&index));

    let aside = index.with_extension("aside");
    fs::rename(&index, &aside).unwrap();
    fs::create_dir(&index).unwrap();
    refuses("is a directory");
    fs::remove_dir(&index).unwrap();
    fs::rename(&aside, &index).unwrap();

    assert!(!is_shared(&new[0], &new[1]));
    host.run(&[]);
    assert!(is_shared(&new[0], &new[1]));
}

#[test]
fn a_state_directory_that_cannot_be_made_stops_the_run() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let other = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        write(guest, "usr/bin/tool", "the same");
    }
    let file = other.path().join("file");
    fs::write(&file, "").unwrap();
    let (below, missing) = (file.join("state"), other.path().join("state"));
    other.remount("ro");
    for (state, reason) in [
        (file.as_path(), "cannot be made: "),
        (&below, "cannot be made: not a directory"),
        (&missing, "cannot be made: read-only file system"),
        // It is there, and no file can be made in it.
        (other.path(), "cannot be used: read-only file system"),
    ] {
        let mut command = host.run_command(&[]);
        command.arg("--state-dir").arg(state);
        // The last one counts where an option is given twice, or none does.
        let mut command = without_first_state_directory(&command);
        let words = [text(state), reason, "--state-dir"];
        refused_untouched(filesystem.path(), &mut command, 2, &words);
    }
}

/// The command without the first `--state-dir DIR`.
fn without_first_state_directory(command: &Command) -> Command {
    let mut arguments: Vec<_> = command.get_args().collect();
    let at = arguments
        .iter()
        .position(|word| *word == "--state-dir")
        .unwrap();
    arguments.drain(at..at + 2);
    let mut other = Command::new(command.get_program());
    other.args(arguments).env_remove("VSERVER_CONFDIR");
    other
}

#[test]
fn a_full_disk_under_the_index_costs_the_index_and_nothing_else() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let small = Filesystem::with_options(Kind::Ext4, 8 << 20, "");
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        write(guest, "usr/bin/tool", "the same");
    }
    let before = host.guests.iter().map(|guest| Snapshot::of(guest));
    let before: Vec<Snapshot> = before.collect();
    let state = small.path().join("state");
    fs::create_dir(&state).unwrap();
    super::bad_files::fill(small.path());

    let mut command = host.run_command(&[]);
    command.arg("--state-dir").arg(&state);
    let done = output(&mut without_first_state_directory(&command));
    let error = String::from_utf8(done.stderr).unwrap();
    assert!(
        matches!(done.status.code(), Some(1 | 2)),
        "{:?} {error}",
        done.status
    );
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in [text(&state), "no space left on device"] {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    for (guest, before) in host.guests.iter().zip(before) {
        before.assert_same(&Snapshot::of(guest), "the index has no room");
    }
    host.run(&[]);
}

/// A report, a dry run or another program's look at it takes a moment, for which a run must not fail.
#[test]
fn inv7_an_index_that_somebody_reads_is_waited_for() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let (host, index) = indexed(&filesystem);
    let reader = Database::builder().open_read_only(&index).unwrap();
    let run = spawn(&mut host.run_command(&[]));
    std::thread::sleep(Duration::from_millis(500));
    drop(reader);
    let run = run.wait_with_output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{run:?}");
}
