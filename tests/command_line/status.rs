//! The exit status: 0 all done, 1 some files failed, 2 usage and configuration, 3 refused.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use vhashify_testkit::filesystem::{Filesystem, Kind};
use vhashify_testkit::program::{Host, json, output, spawn};
use vhashify_testkit::snapshot::{Snapshot, check_store};

use super::still::{Still, refused_untouched};
use super::tree::{is_shared, write};

fn two_guests(filesystem: &Filesystem) -> Host {
    let host = Host::new(filesystem.path(), 2);
    for guest in &host.guests {
        write(guest, "usr/bin/tool", "the same");
    }
    host
}

/// What is missing for `--protect lsm` [`without_bpf`].
const WITHOUT_GUARD: &str = if cfg!(feature = "guard") {
    "lsm: the kernel has no active bpf security module"
} else {
    "lsm: this vhashify was built without the guard"
};

/// The command where the kernel's list of active security modules has no `bpf`.
fn without_bpf(command: &Command) -> Command {
    let script = "mount -t tmpfs tmpfs /sys/kernel/security
        echo lockdown,capability,yama >/sys/kernel/security/lsm
        exec \"$@\"";
    let mut without = Command::new("unshare");
    without
        .args(["--mount", "sh", "-ec", script, "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_remove("VSERVER_CONFDIR");
    without
}

#[cfg(feature = "guard")]
#[test]
fn the_guard_is_refused_where_the_kernel_would_not_ask_it() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    let mut load = without_bpf(&host.command(["guard", "load"]));
    let words = ["no active bpf security module", "lsm="];
    refused_untouched(filesystem.path(), &mut load, 3, &words);
}

/// Every command on a store.
fn commands(host: &Host) -> Vec<Command> {
    let guest = host.guests[0].to_str().unwrap();
    vec![
        host.run_command(&[]),
        host.command(["gc"]),
        host.command(["verify"]),
        host.command(["deunify", "--manually", guest]),
    ]
}

#[test]
fn zero_when_all_is_done() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    for mut command in commands(&host).into_iter().chain([
        host.command(["report"]),
        host.command(["--help"]),
        host.command(["--version"]),
        host.run_command(&["-n"]),
    ]) {
        let done = output(&mut command);
        assert_eq!(done.status.code(), Some(0), "{command:?}: {done:?}");
        assert_eq!(String::from_utf8_lossy(&done.stderr), "", "{command:?}");
    }
}

#[test]
fn one_when_something_failed_and_it_is_named() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    host.run(&[]);
    let object = check_store(&host.store()).into_values().next().unwrap();
    let mut file = OpenOptions::new().write(true).open(&object).unwrap();
    file.write_all(b"THE SAME").unwrap();
    drop(file);

    let mut command = host.command(["verify", "--deep", "--format", "json"]);
    let done = output(&mut command);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let lines = String::from_utf8(done.stderr).unwrap();
    assert!(lines.contains(object.to_str().unwrap()), "{lines}");
    assert!(lines.contains("verify --repair"), "{lines}");
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["errors"][0]["path"], object.to_str().unwrap());
    assert!(report["errors"][0]["reason"].is_string());
}

#[test]
fn three_when_nothing_can_be_protected() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    let store = host.store();
    let (lsm, reflink) = (
        WITHOUT_GUARD,
        "reflink: its filesystem does not share extents",
    );
    let cases: [(&[&str], &[&str]); 7] = [
        (&[], &[lsm, reflink]),
        (&["--protect", "auto"], &[lsm, reflink]),
        (&["--protect", "lsm"], &[lsm]),
        (&["--protect", "lsm", "-n"], &[lsm]),
        (&["--protect", "reflink"], &[reflink]),
        (&["--protect", "reflink", "-n"], &[reflink]),
        (
            &["--protect", "verity"],
            &["verity: fs-verity is not enabled"],
        ),
    ];
    for (mode, missing) in cases {
        let mut command = host.command(["--manually"]);
        command.args(mode).args(&host.guests);
        let mut command = without_bpf(&command);
        let words = [&[store.to_str().unwrap(), "--protect none"], missing].concat();
        refused_untouched(filesystem.path(), &mut command, 3, &words);
    }
}

#[test]
fn a_dry_run_needs_no_protection_and_changes_nothing() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    let before = Still::of(filesystem.path());
    let mut command = host.command(["--manually", "-n"]);
    command.args(&host.guests);
    assert_eq!(json(command)["files_unified"], 1);
    before.assert_untouched("after a dry run");
}

#[test]
fn three_when_the_store_is_busy_and_nobody_wants_to_wait() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    let store = host.store();
    // A shared lock of the holder tells whether the commands ask for an exclusive one.
    for held_as in [FlockOperation::LockExclusive, FlockOperation::LockShared] {
        let held = File::open(&store).unwrap();
        flock(&held, held_as).unwrap();
        for mut command in commands(&host) {
            let words = [
                store.to_str().unwrap(),
                "in use by another run",
                "--no-wait",
            ];
            refused_untouched(filesystem.path(), command.arg("--no-wait"), 3, &words);
        }
    }
    host.run(&["--no-wait"]);
    assert!(is_shared(
        &host.guests[0].join("usr/bin/tool"),
        &host.guests[1].join("usr/bin/tool")
    ));
}

#[test]
fn the_second_waits_for_the_first_and_then_does_its_work() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = two_guests(&filesystem);
    for mut command in commands(&host) {
        let held = File::open(host.store()).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let before = Snapshot::of(&host.store());
        let mut waiting = spawn(&mut command);
        let mut error = BufReader::new(waiting.stderr.take().unwrap());
        let mut line = String::new();
        error.read_line(&mut line).unwrap();
        assert!(
            line.contains("waiting for another run on"),
            "{command:?}: {line}"
        );
        assert!(
            line.contains(host.store().to_str().unwrap()),
            "{command:?}: {line}"
        );
        assert!(
            waiting.try_wait().unwrap().is_none(),
            "{command:?} does not wait"
        );
        before.assert_same(&Snapshot::of(&host.store()), "while it waits");

        drop(held);
        let mut rest = String::new();
        error.read_to_string(&mut rest).unwrap();
        let done = waiting.wait_with_output().unwrap();
        assert!(done.status.success(), "{command:?}: {rest}");
        assert_eq!(rest, "", "{command:?}");
    }
    let rest = fs::read_dir(&host.guests[1]).unwrap().count();
    assert_eq!(rest, 1);
}
