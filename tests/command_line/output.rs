//! What is printed, where, and when: results on standard output, all else on standard error.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use vhashify_testkit::filesystem::{Filesystem, Kind};
use vhashify_testkit::program::{Host, output};

use super::tree::{Tree, write};

/// Two guests whose every number is known.
fn known(filesystem: &Filesystem) -> Host {
    let host = Host::new(filesystem.path(), 2);
    for (guest, own) in host.guests.iter().zip(["mine", "yours, it is"]) {
        write(guest, "small", "same\n"); // 5 bytes in both
        write(guest, "large", "x".repeat(100_000)); // the same in both
        write(guest, "own", own); // 4 and 12 bytes: never read
        write(guest, "odd", format!("{own:.4}-----")); // 9 bytes, not the same: read and left
        let twin = write(guest, "twin", "t".repeat(5000)); // two names of one file
        fs::hard_link(twin, guest.join("twin2")).unwrap();
        write(guest, "empty", "");
        std::os::unix::fs::symlink("small", guest.join("link")).unwrap();
    }
    host
}

/// Runs `command` on a terminal of its own, and returns what is drawn there. What it prints to
/// standard output goes to `/dev/null`, so that only the rest is seen.
fn on_a_terminal(command: &Command) -> String {
    let mut line = String::from("env -u VSERVER_CONFDIR");
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        write!(line, " '{}'", word.to_str().unwrap()).unwrap();
    }
    let done = output(
        Command::new("script")
            .args(["-qec", &format!("{line} >/dev/null"), "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::null()),
    );
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A run that begins anew, so that each does the same.
fn fresh(host: &Host, options: &[&str]) -> Command {
    let mut options = options.to_vec();
    options.push("-n");
    host.run_command(&options)
}

#[test]
fn json_has_every_number_and_each_is_right() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    let expected = json!({
        "dry_run": false,
        "guests": host.guests.iter().map(|guest| guest.to_str().unwrap()).collect::<Vec<_>>(),
        "files_scanned": 14,
        "bytes_scanned": 2 * (5 + 100_000 + 9 + 2 * 5000) + 4 + 12,
        "files_hashed": 8,
        "bytes_hashed": 2 * (5 + 100_000 + 9 + 5000),
        "files_unified": 4,
        "bytes_saved": 5 + 100_000 + 5000,
        "objects_created": 3,
        "skipped": { "empty": 2, "not-regular": 2 },
        "errors": [],
    });
    let compare = |report: &Value, expected: &Value| {
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&report[key], value, "{key} in {report}");
        }
        let stages = report["seconds"].as_object().unwrap();
        assert!(
            stages
                .values()
                .all(|seconds| seconds.as_f64().unwrap() >= 0.0)
        );
        let allocated = report["disk_bytes_saved"].as_u64().unwrap();
        assert_eq!(allocated % 512, 0, "whole blocks");
        if report["files_unified"] != 0 {
            assert!(allocated >= 105_005, "{allocated}");
        }
    };

    let mut planned = expected.clone();
    planned["dry_run"] = json!(true);
    compare(&host.run(&["-n"]), &planned);
    compare(&host.run(&[]), &expected);

    let mut nothing_new = expected;
    for key in [
        "files_hashed",
        "bytes_hashed",
        "files_unified",
        "bytes_saved",
        "objects_created",
    ] {
        nothing_new[key] = json!(0);
    }
    compare(&host.run(&[]), &nothing_new);
}

#[test]
fn json_is_one_object_whatever_else_is_asked_for() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    for options in [
        &["-v"][..],
        &["-vv"],
        &["-q"],
        &["--progress", "always", "--color", "always"],
    ] {
        let report = host.run(options);
        assert_eq!(report["files_scanned"], 14, "{options:?}");
    }
    for (command, key) in [
        (&["gc"][..], "objects_removed"),
        (&["verify"], "objects"),
        (&["report"], "stores"),
        (
            &["deunify", "--manually", host.guests[0].to_str().unwrap()],
            "files_deunified",
        ),
    ] {
        let report = host.call(command);
        assert!(report.get(key).is_some(), "{command:?}: {report}");
    }
}

#[test]
fn min_size_leaves_smaller_files_alone_and_counts_them() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    let report = host.run(&["--min-size", "5001"]);
    assert_eq!(report["files_unified"], 1);
    assert_eq!(report["bytes_saved"], 100_000);
    assert_eq!(report["skipped"]["below-min-size"], 10);
}

#[test]
fn jobs_change_how_long_it_takes_and_nothing_else() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    for jobs in ["1", "7", "1024"] {
        let report = host.run(&["-n", "--jobs", jobs]);
        assert_eq!(report["files_hashed"], 8, "{jobs}");
        assert_eq!(report["files_unified"], 4, "{jobs}");
    }
}

#[test]
fn text_says_the_same_in_few_lines_and_verbosely_says_why() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    let short = output(&mut fresh(&host, &[]));
    assert!(short.status.success());
    assert_eq!(text(&short.stderr), "");
    let lines: Vec<&str> = text(&short.stdout).lines().collect();
    assert!(
        lines[0].starts_with("2 guests, 14 files, 220 kB in "),
        "{lines:?}"
    );
    assert_eq!(
        lines[1],
        "4 files would be unified, 105 kB saved, 3 new objects; protection: none"
    );
    assert_eq!(lines[2..], ["4 entries skipped (-v says why)"]);

    let long = output(&mut fresh(&host, &["-v"]));
    let long = text(&long.stdout);
    for line in [
        "8 files read, 210 kB",
        "2 skipped: empty",
        "2 skipped: not-regular",
    ] {
        assert!(long.contains(line), "{line:?} is not in {long}");
    }
}

#[test]
fn text_fits_eighty_columns() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    // A name that alone would fill the line.
    let long = filesystem.path().join("g".repeat(120));
    write(&long, "small", "same\n");
    let mut host = host;
    host.guests.push(long);
    let guest = host.guests[0].to_str().unwrap().to_owned();
    let commands = [
        host.run_command(&["-v"]),
        host.command(["verify", "--deep", "-v"]),
        host.command(["report"]),
        host.command(["deunify", "--manually", &guest]),
        host.command(["gc"]),
    ];
    for mut command in commands {
        let printed = output(&mut command);
        assert!(printed.status.success(), "{printed:?}");
        let printed = text(&printed.stdout).to_owned();
        assert!(!printed.is_empty(), "{command:?}");
        // A path is never cut: it is there to be copied.
        for line in printed.lines().filter(|line| !line.starts_with("store /")) {
            assert!(line.chars().count() <= 80, "{command:?}: {line}");
        }
    }
}

#[test]
fn quietly_nothing_is_printed_but_errors() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    let silent = |done: &Output| {
        assert!(done.status.success(), "{done:?}");
        assert_eq!((text(&done.stdout), text(&done.stderr)), ("", ""));
    };
    silent(&output(&mut host.run_command(&[
        "-q",
        "--progress",
        "always",
    ])));
    silent(&output(&mut host.command(["verify", "-q"])));
    silent(&output(&mut host.command(["gc", "--quiet"])));
    let failed = output(&mut host.command(["-q"]));
    assert_eq!(failed.status.code(), Some(2));
    assert_eq!(text(&failed.stderr).lines().count(), 1);
}

#[test]
fn progress_is_drawn_on_a_terminal_and_into_nothing_else() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    let drawn = on_a_terminal(&fresh(&host, &[]));
    assert!(
        drawn.contains("scan") && drawn.contains("\u{1b}["),
        "{drawn:?}"
    );
    assert_eq!(on_a_terminal(&fresh(&host, &["--progress", "never"])), "");
    assert_eq!(on_a_terminal(&fresh(&host, &["-q"])), "");

    let piped = output(&mut fresh(&host, &[]));
    assert_eq!(text(&piped.stderr), "");
    let piped = output(&mut fresh(&host, &["--progress", "always"]));
    assert!(text(&piped.stderr).contains("scan"), "{piped:?}");
    assert!(!text(&piped.stdout).contains('\u{1b}'), "{piped:?}");
}

#[test]
fn a_closed_pipe_is_a_quiet_success() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    for mut command in [
        host.run_command(&[]),
        host.command(["report"]),
        host.command(["--help"]),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = output(command.stdout(writer));
        assert_eq!(done.status.code(), Some(0), "{command:?}");
        assert_eq!(text(&done.stderr), "", "{command:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_no_success() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = known(&filesystem);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let done = output(host.run_command(&["--format", "json"]).stdout(full));
    assert_eq!(done.status.code(), Some(1));
    let line = text(&done.stderr);
    assert!(
        line.contains("standard output") && line.contains("no space left"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn a_setting_without_effect_is_named_in_a_warning() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = Tree::new(filesystem.path());
    tree.guest("web");
    tree.value(".defaults/apps/vunify/hash/method", "sha1\n");
    let warned = |options: &[&str]| -> String {
        let mut command = tree.command(["--protect", "none", "-n", "--all"]);
        let done = output(command.args(options));
        assert!(done.status.success(), "{done:?}");
        text(&done.stderr).to_owned()
    };
    let plain = warned(&[]);
    assert!(plain.contains("hash/method has no effect"), "{plain:?}");
    assert_eq!(plain.lines().count(), 1);
    assert!(!plain.contains('\u{1b}'), "no colours in a pipe: {plain:?}");
    assert!(warned(&["--color", "always"]).contains('\u{1b}'));
    assert_eq!(warned(&["-q"]), "");

    let mut command = tree.command(["--protect", "none", "-n", "--all", "--progress", "never"]);
    assert!(
        on_a_terminal(&command).contains('\u{1b}'),
        "colours on a terminal"
    );
    command.args(["--color", "never"]);
    let drawn = on_a_terminal(&command);
    assert!(
        drawn.contains("has no effect") && !drawn.contains('\u{1b}'),
        "{drawn:?}"
    );
}

#[test]
fn names_of_any_bytes_are_one_line_each() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let filesystem = Filesystem::new(Kind::Ext4);
    let odd = Path::new(OsStr::from_bytes(b"caf\xe9\nroot\x1b[31m"));
    let host = Host::new(&filesystem.path().join(odd), 2);
    for guest in &host.guests {
        write(guest, "small", "same\n");
    }
    let report = host.run(&[]);
    assert_eq!(report["files_unified"], 1);
    let name = report["guests"][0].as_str().unwrap();
    assert!(name.ends_with(r"/caf\xe9\nroot\u{1b}[31m/guest0"), "{name}");
    let printed = output(&mut host.command(["report"]));
    let printed = text(&printed.stdout);
    assert!(!printed.contains('\u{1b}'));
    assert!(
        printed
            .lines()
            .any(|line| line.contains(r"\nroot\u{1b}[31m/guest1 ")),
        "{printed}"
    );
}
