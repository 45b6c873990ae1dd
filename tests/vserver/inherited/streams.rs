//! A command in a guest gets no inode of the host's filesystems as a standard stream: what is redirected goes through pipes.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::{Command, Output, Stdio};
use std::thread;

use vhashify_testkit::filesystem::command;

use super::super::host::Host;
use super::line;

/// A shell of the host runs this, with `vserver … web` in the place of `WEB`.
fn shell(host: &Host, script: &str) -> Output {
    let script = script.replace("WEB", &line(host, "web"));
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(host.at(""));
    shell.stdin(Stdio::null()).output().unwrap()
}

fn web() -> Host {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    host
}

/// Says what each standard stream is: its kind, and its filesystem.
const KINDS: &str = r#"#!/bin/sh
all=$(for d in 0 1 2; do stat -Lc '%F %d' /proc/$$/fd/$d; done; stat -c 'null %d' /dev/null)
echo "$all" >/tmp/kinds
"#;

#[test]
fn no_file_of_the_host_is_a_stream_of_a_command() {
    let host = web();
    let files = host.at("files");
    fs::create_dir(&files).unwrap();
    for name in ["in", "out", "both"] {
        fs::write(files.join(name), "").unwrap();
        fs::set_permissions(files.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    command(Command::new("mkfifo").arg(files.join("fifo")));
    let program = host.vdir("web").join("usr/bin/kinds");
    fs::write(&program, KINDS).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let null = fs::metadata("/dev/null").unwrap();
    assert!(null.file_type().is_char_device());
    for user in ["exec", "suexec www-data"] {
        for (redirected, kinds) in [
            ("<files/in >files/out 2>>files/out", ["fifo"; 3]),
            ("<>files/both >files/out 2>&1", ["fifo"; 3]),
            ("</dev/null >/dev/null 2>/dev/null", ["null"; 3]),
            ("</dev/zero >/dev/full 2>files/out", ["fifo"; 3]),
            ("<>files/fifo >&0 2>/dev/null", ["fifo", "fifo", "null"]),
            ("2>&1 </dev/null | cat", ["null", "fifo", "fifo"]),
        ] {
            drop(fs::remove_file(host.vdir("web").join("tmp/kinds")));
            let output = shell(&host, &format!("WEB {user} kinds {redirected}"));
            let seen = fs::read_to_string(host.vdir("web").join("tmp/kinds"));
            let seen = seen.unwrap_or_else(|error| panic!("{redirected}: {error}: {output:?}"));
            let own_null = seen.lines().last().unwrap().replace("null ", "");
            assert_ne!(own_null, null.dev().to_string());
            let found: Vec<&str> = seen
                .lines()
                .take(3)
                .map(|line| match line.rsplit_once(' ').unwrap() {
                    ("fifo", _) => "fifo",
                    (kind, device) if kind.starts_with("character") && device == own_null => "null",
                    _ => line,
                })
                .collect();
            assert_eq!(found, kinds, "{user} {redirected}");
        }
    }
    // What root of the guest can do to a descriptor, it does to a pipe.
    let spoil = "chmod 0 /proc/self/fd/0; chown 5 /proc/self/fd/1; : >/proc/self/fd/0; echo x >>/proc/self/fd/0";
    fs::write(files.join("in"), "kept").unwrap();
    shell(
        &host,
        &format!("WEB exec timeout 2 sh -c '{spoil}' <files/in >files/out"),
    );
    for name in ["in", "out"] {
        let of = fs::metadata(files.join(name)).unwrap();
        assert_eq!((of.mode() & 0o7777, of.uid()), (0o644, 0), "{name}");
    }
    assert_eq!(fs::read(files.join("in")).unwrap(), b"kept");
}

#[test]
fn what_is_copied_arrives_whole_and_in_order() {
    let host = web();
    let large: Vec<u8> = (0..20_000_000u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(host.at("large"), &large).unwrap();
    let output = shell(&host, "WEB exec cat <large >copy; echo $?");
    assert_eq!(output.stdout, b"0\n", "{output:?}");
    assert!(
        fs::read(host.at("copy")).unwrap() == large,
        "the copy is another"
    );
    fs::write(host.at("log"), "before\n").unwrap();
    let script = "{ echo first; WEB exec sh -c 'for n in 1 2 3; do echo out $n; echo err $n >&2; done; exit 4' >>log 2>&1; \
                  echo $?; WEB exec sh -c 'echo later; echo aside >&2' >>log 2>aside; } >status";
    let output = shell(&host, script);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let read = |name: &str| fs::read_to_string(host.at(name)).unwrap();
    let both = "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n";
    assert_eq!(read("log"), format!("before\n{both}later\n"));
    assert_eq!(
        (read("aside").as_str(), read("status").as_str()),
        ("aside\n", "first\n4\n")
    );
    // It ends when the command does, whatever is left to read.
    let output = shell(
        &host,
        "WEB exec head -c 3 <large; WEB exec true </dev/zero; echo $?",
    );
    assert_eq!(&output.stdout[3..], b"0\n", "{output:?}");
}

#[test]
fn an_output_that_takes_no_more_is_an_error_by_name() {
    let host = web();
    let output = shell(
        &host,
        "WEB exec sh -c 'yes | head -c 1000000' >/dev/full; echo $?",
    );
    assert_eq!(output.stdout, b"1\n", "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("its standard output: no space left"),
        "{said}"
    );
}

#[test]
fn users_of_a_guest_open_their_streams_anew() {
    let host = web();
    for users in ["host", "own"] {
        let anew = "cat /dev/stdin; echo to-stdout >/dev/stdout; echo to-stderr >/dev/stderr";
        fs::write(host.at("in"), "from-stdin\n").unwrap();
        for redirected in [
            "<in >out 2>out2; cat out out2",
            "<in 2>&1 | cat",
            "2>&1 < <(cat in) | cat",
        ] {
            let output = shell(
                &host,
                &format!("WEB suexec www-data sh -c '{anew}' {redirected}"),
            );
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(
                said, "from-stdin\nto-stdout\nto-stderr\n",
                "{users} {redirected}: {output:?}"
            );
        }
        host.ok(&["web", "stop"]);
        host.set("web", "spaces/user", "own\n");
        host.ok(&["web", "start"]);
    }
}

#[test]
fn a_socket_stays_the_commands_own() {
    let host = web();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let theirs = || Stdio::from(std::os::fd::OwnedFd::from(theirs.try_clone().unwrap()));
    let mut command = host.vserver(&[
        "web",
        "exec",
        "sh",
        "-c",
        "read x; echo got $x; stat -Lc %F /proc/self/fd/0",
    ]);
    let mut child = command.stdin(theirs()).stdout(theirs()).spawn().unwrap();
    drop(command);
    (&ours).write_all(b"word\n").unwrap();
    let reader = thread::spawn(move || {
        let mut said = [0; 16];
        std::io::Read::read_exact(&mut &ours, &mut said).unwrap();
        said
    });
    assert!(child.wait().unwrap().success());
    assert_eq!(&reader.join().unwrap(), b"got word\nsocket\n");
}
