//! Commands in a guest: whose they are, how they end, and what terminal they have.

use std::process::{Command, Stdio};

use vhashify_testkit::built;

use super::host::Host;

#[test]
fn exec_passes_output_input_and_exit_status() {
    let host = Host::new();
    host.sleeper("web");
    let line = host.refused(&["web", "exec", "true"], 1);
    assert!(line.contains("not running"), "{line}");
    host.ok(&["web", "start"]);
    for status in [0, 1, 42, 255] {
        let (code, _) = host.script("web", &format!("exit {status}"));
        assert_eq!(code, status);
    }
    assert_eq!(host.script("web", "kill -TERM $$").0, 128 + 15);
    let line = host.refused(&["web", "exec", "no-such-program"], 127);
    assert!(line.contains("no-such-program"), "{line}");
    let line = host.refused(&["web", "exec", "/etc/passwd"], 126);
    assert!(line.contains("permission denied"), "{line}");
    let mut cat = host.vserver(&["web", "exec", "cat", "/proc/self/stat", "-"]);
    let mut child = cat
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"typed").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("typed"));
    // A command's own options are the command's.
    assert_eq!(
        host.ok(&["web", "exec", "echo", "--help", "-v"]),
        "--help -v\n"
    );
}

#[test]
fn a_guest_sees_only_its_own_processes_and_names() {
    let host = Host::new();
    host.sleeper("web");
    host.set("web", "uts/nodename", "www.example.org\n");
    host.set("web", "environment", "COLOUR=green\n");
    host.ok(&["web", "start"]);
    let (_, text) = host.script("web", "hostname; echo $COLOUR; cat /proc/1/comm");
    assert_eq!(text, "www.example.org\ngreen\nsleep\n");
    let (_, text) = host.script("web", "ls -d /proc/[0-9]* | wc -l");
    assert!(text.trim().parse::<u32>().unwrap() < 6, "{text}");
    // The host's environment is not the guest's.
    let mut env = host.vserver(&["web", "exec", "env"]);
    let output = env.env("SECRET", "of the host").output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("SECRET"));
}

#[test]
fn limits_hold_for_init_and_for_what_enters() {
    let host = Host::new();
    host.guest(
        "web",
        &["/bin/sh", "-c", "ulimit -n; umask; exec sleep 1000"],
    );
    host.set("web", "rlimits/nofile.hard", "77\n");
    host.set("web", "rlimits/nofile.soft", "66\n");
    host.set("web", "umask", "027\n");
    host.set("web", "cgroup/pids.max", "12\n");
    host.ok(&["web", "start"]);
    super::host::wait_until("init says it", || host.console("web") == "66\n0027\n");
    let (_, text) = host.script("web", "ulimit -n; ulimit -Hn; umask");
    assert_eq!(text, "66\n77\n0027\n");
    let (_, text) = host.script("web", "for i in $(seq 30); do sleep 9 & done; echo on");
    assert!(
        text.contains("fork") && !text.contains("on\n"),
        "a guest has its count: {text}"
    );
}

#[test]
fn suexec_is_one_of_the_guests_users() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let id = host.ok(&[
        "web",
        "suexec",
        "www-data",
        "sh",
        "-c",
        "id -un; id -gn; echo $HOME",
    ]);
    assert_eq!(id, "www-data\nwww-data\n/var/www\n");
    let id = host.ok(&["web", "suexec", "1234", "id", "-u"]);
    assert_eq!(id, "1234\n");
    let caps = host.ok(&[
        "web",
        "suexec",
        "www-data",
        "grep",
        "CapEff",
        "/proc/self/status",
    ]);
    assert_eq!(caps.split_whitespace().last(), Some("0000000000000000"));
    let line = host.refused(&["web", "suexec", "nobody-here", "id"], 1);
    assert!(line.contains("nobody-here"), "{line}");
}

#[test]
fn enter_has_a_terminal_of_the_guests() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let enter = format!(
        "stty rows 33 cols 99; {} --config-dir {} --state-dir {} web enter",
        built::vserver().display(),
        host.at("conf").display(),
        host.at("state").display()
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &enter, "/dev/null"])
        .env("TERM", "dumb");
    let mut child = script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let typed = b"stty size; tty; hostname; echo $0; sleep 1000 &\njobs; kill %1; exit 9\n";
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), typed).unwrap();
    let status = child.wait().unwrap();
    let mut shown = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut shown).unwrap();
    assert_eq!(status.code(), Some(9), "{shown}");
    for part in ["33 99", "/dev/pts/0", "web", "-bash", "Running"] {
        assert!(shown.contains(part), "{part} is missing: {shown}");
    }
}
