//! What of whoever types a command could reach a guest: descriptors, memory, environment, umask, limits, terminal.
//!
//! | file | what |
//! | --- | --- |
//! | [`attributes`] | scheduling, signals, and whatever else outlives exec |
//! | [`executed`] | that process 1 is a program of its own when `start` returns |
//! | [`streams`] | files and devices of the host as standard streams |

mod attributes;
mod executed;
mod streams;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vhashify_testkit::built;

use super::host::{Host, wait_until};

const SECRET: &str = "HOSTSECRET";

/// The styles of guests that this machine can start.
pub fn styles() -> Vec<&'static str> {
    let mut styles = vec!["plain", "sysv"];
    if fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains("cgroup2")) {
        styles.extend(["systemd", "minit"]);
    }
    styles
}

/// A guest that sleeps, of that style.
fn sleeper(host: &Host, style: &str) {
    host.sleeper(style);
    host.set(style, "apps/init/style", &format!("{style}\n"));
}

/// The command line of a shell that runs `vserver ARGUMENTS`.
pub fn line(host: &Host, arguments: &str) -> String {
    format!(
        "{} --config-dir {} --state-dir {} {arguments}",
        built::vserver().display(),
        host.at("conf").display(),
        host.at("state").display()
    )
}

/// Runs it from a shell that has prepared what is hostile to have.
fn from_shell(host: &Host, preparation: &str, arguments: &str) -> (Option<i32>, String) {
    let script = format!("{preparation}; exec {}", line(host, arguments));
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).stdin(Stdio::null());
    shell.env(SECRET, SECRET).env("LISTEN_FDS", "1");
    let output = shell.output().unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

/// The values of a line of `/proc/PID/limits`: soft and hard.
fn limit(limits: &str, name: &str) -> String {
    let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
    let mut words = line[name.len()..].split_whitespace();
    format!("{} {}", words.next().unwrap(), words.next().unwrap())
}

/// Limits of a caller that are none of the usual ones, and descriptors.
const LOWERED: &str = "umask 077; ulimit -Sn 333; ulimit -Sf 10000; ulimit -Ss 4096; ulimit -Su 5000; \
                       ulimit -Sc unlimited; ulimit -Sl 16; exec 3</ 7</";

/// Whether root of this machine may raise a hard limit again; where it may not, such a limit stays.
fn may_raise() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let held = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"));
    u64::from_str_radix(held.unwrap(), 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

/// [`LOWERED`], and hard ones too where that shows something.
fn lowered() -> String {
    let hard = if may_raise() {
        "; ulimit -Hn 4000; ulimit -Hf 20000"
    } else {
        ""
    };
    format!("{LOWERED}{hard}")
}

fn assert_usual_limits(limits: &str, whose: &str) {
    let own = fs::read_to_string("/proc/self/limits").unwrap();
    for (name, soft, hard) in [
        ("Max cpu time", "unlimited", "unlimited"),
        ("Max file size", "unlimited", "unlimited"),
        ("Max stack size", "8388608", "unlimited"),
        ("Max core file size", "0", "unlimited"),
        ("Max open files", "1024", "524288"),
        ("Max locked memory", "8388608", "8388608"),
        ("Max realtime priority", "0", "0"),
    ] {
        let number = |text: &str| text.parse().unwrap_or(u64::MAX);
        let has = limit(&own, name);
        let has = has.split(' ').nth(1).unwrap();
        let lower = !may_raise() && number(has) < number(hard);
        let hard = if lower { has } else { hard };
        assert_eq!(
            limit(limits, name),
            format!("{soft} {hard}"),
            "{whose}: {name}"
        );
    }
    let of_host = fs::read_to_string("/proc/1/limits").unwrap();
    let name = "Max processes";
    assert_eq!(limit(limits, name), limit(&of_host, name), "{whose}");
}

#[test]
fn nothing_of_whoever_starts_a_guest_reaches_its_init() {
    let host = Host::new();
    for style in styles() {
        sleeper(&host, style);
        let (status, text) = from_shell(&host, &lowered(), &format!("{style} start"));
        assert_eq!(status, Some(0), "{text}");
        let init = host.state(style)["init"]["pid"].as_i64().unwrap();
        let of = |file: &str| fs::read_to_string(format!("/proc/{init}/{file}")).unwrap();
        let environment = of("environ");
        for variable in environment.split_terminator('\0') {
            let name = variable.split('=').next().unwrap();
            let known = ["PATH", "HOME", "container", "TERM"];
            assert!(known.contains(&name), "{style}: {variable}");
        }
        let memory = of("status");
        assert!(memory.contains("Umask:\t0022\n"), "{style}: {memory}");
        assert_usual_limits(&of("limits"), style);
        let inside = "umask; cat /proc/self/limits; echo; env; readlink /proc/self/fd/*";
        let (_, text) = from_shell(&host, &lowered(), &format!("{style} exec sh -c '{inside}'"));
        assert!(text.starts_with("0022\n"), "{text}");
        assert_usual_limits(&text, &format!("exec in {style}"));
        assert!(
            !text.contains(SECRET) && !text.contains("LISTEN_"),
            "{text}"
        );
        host.ok(&[style, "stop"]);
    }
}

#[test]
fn configured_limits_and_umask_take_the_place_of_the_usual_ones() {
    let host = Host::new();
    let files = if may_raise() { 600_000 } else { 3000 };
    for (name, users) in [("host", "host"), ("own", "own")] {
        sleeper(&host, "sysv");
        if users == "own" {
            host.set("sysv", "spaces/user", "own\n");
        }
        // Above what the caller may have, and above the usual one: raised before a user namespace forbids it.
        host.set("sysv", "rlimits/nofile", &format!("{files}\n"));
        host.set("sysv", "rlimits/stack.soft", "1048576\n");
        host.set("sysv", "rlimits/stack.hard", "2097152\n");
        host.set("sysv", "umask", "027\n");
        let (status, text) = from_shell(&host, &lowered(), "sysv start");
        assert_eq!(status, Some(0), "{name}: {text}");
        let show = "sysv exec sh -c 'umask; ulimit -n; ulimit -Hs; cat /proc/1/limits'";
        let (_, text) = from_shell(&host, &lowered(), show);
        assert!(
            text.starts_with(&format!("0027\n{files}\n2048\n")),
            "{name}: {text}"
        );
        let twice = format!("{files} {files}");
        assert_eq!(limit(&text, "Max open files"), twice, "{name}");
        assert_eq!(limit(&text, "Max stack size"), "1048576 2097152", "{name}");
        host.ok(&["sysv", "stop"]);
        host.ok(&["--silent", "sysv", "delete"]);
    }
}

/// Stops every new process of its guest for a moment, and writes down what of the caller's it finds there: in the
/// descriptors, through directories in them, in the environment, the arguments, and all memory that can be written.
const WATCHER: &str = r#"
    #define _GNU_SOURCE
    #include <dirent.h>
    #include <fcntl.h>
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/stat.h>
    #include <unistd.h>
    static char text[1 << 20];
    static int holds(int file, off_t from, size_t length) {
        if (length > sizeof text) length = sizeof text;
        ssize_t count = pread(file, text, length, from);
        return count > 0 && memmem(text, count, "HOSTSECRET", 10) != 0;
    }
    static int shows(const char *path) {
        int file = open(path, O_RDONLY | O_NONBLOCK), found = holds(file, 0, sizeof text);
        close(file);
        return found;
    }
    static void look(int pid, FILE *log) {
        char path[600], line[600];
        sprintf(path, "/proc/%d/environ", pid);
        if (shows(path)) fprintf(log, "environment\n");
        sprintf(path, "/proc/%d/cmdline", pid);
        if (shows(path)) fprintf(log, "arguments\n");
        sprintf(path, "/proc/%d/fd", pid);
        DIR *all = opendir(path);
        struct dirent *entry;
        while (all && (entry = readdir(all))) {
            struct stat of;
            if (entry->d_name[0] == '.') continue;
            sprintf(path, "/proc/%d/fd/%s", pid, entry->d_name);
            if (!stat(path, &of) && S_ISDIR(of.st_mode)) {
                char to[200] = "";
                readlink(path, to, 199);
                struct stat own;
                if (stat("/", &own) || own.st_dev != of.st_dev) fprintf(log, "directory %s\n", to);
            }
            strcat(path, "/secret");
            if (shows(path)) fprintf(log, "file below a directory\n");
        }
        if (all) closedir(all);
        sprintf(path, "/proc/%d/maps", pid);
        FILE *maps = fopen(path, "r");
        sprintf(path, "/proc/%d/mem", pid);
        int memory = open(path, O_RDONLY);
        while (maps && fgets(line, sizeof line, maps)) {
            unsigned long from, to;
            char mode[8];
            if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[1] != 'w') continue;
            for (unsigned long at = from; at < to && at < from + (4 << 20); at += sizeof text)
                if (holds(memory, at, to - at)) { fprintf(log, "memory %s", line); break; }
        }
        if (maps) fclose(maps);
        close(memory);
    }
    int main(void) {
        FILE *log = fopen("/root/seen", "w");
        setbuf(log, 0);
        int load = open("/proc/loadavg", O_RDONLY), last = 0;
        unsigned long stopped = 0;
        while (access("/root/end", F_OK)) {
            char now[256];
            int length = pread(load, now, 255, 0);
            now[length > 0 ? length : 0] = 0;
            int pid = atoi(strrchr(now, ' '));
            if (pid == last || pid == getpid()) continue;
            last = pid;
            if (kill(pid, SIGSTOP)) continue;
            look(pid, log);
            kill(pid, SIGCONT);
            stopped++;
        }
        fprintf(log, "%lu\n", stopped);
        return 0;
    }
"#;

/// The watcher, as it runs in the guest.
fn watch(host: &Host, name: &str) -> Child {
    let (source, program) = (host.at("watch.c"), host.vdir(name).join("root/watch"));
    fs::write(&source, WATCHER).unwrap();
    let mut compile = Command::new("cc");
    compile.args(["-O1", "-w", "-static", "-o"]);
    assert!(
        compile
            .args([&program, &source])
            .status()
            .unwrap()
            .success()
    );
    let mut watcher = host.vserver(&[name, "exec", "/root/watch"]);
    let watcher = watcher.stdout(Stdio::null()).spawn().unwrap();
    let seen = host.vdir(name).join("root/seen");
    wait_until("the watcher watches", || seen.exists());
    watcher
}

/// Ends it, and gives what it saw, and how many processes it stopped.
fn seen(host: &Host, name: &str, mut watcher: Child) -> (String, u32) {
    fs::write(host.vdir(name).join("root/end"), "").unwrap();
    watcher.wait().unwrap();
    let text = fs::read_to_string(host.vdir(name).join("root/seen")).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let count = lines.pop().unwrap().parse().unwrap();
    (lines.join("\n"), count)
}

#[test]
fn a_process_that_begins_in_a_guest_has_nothing_of_its_caller() {
    let host = Host::new();
    let secrets = host.at("callers");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("secret"), SECRET).unwrap();
    let preparation = format!("cd {0}; exec 3<{0} 9<{0}/secret 33</", secrets.display());
    for own_users in [false, true] {
        let name = "web";
        host.sleeper(name);
        // One who may trace all of its guest's processes, which is the usual case, and one who may not.
        if own_users {
            host.set(name, "spaces/user", "own\n");
        }
        host.ok(&[name, "start"]);
        let watcher = watch(&host, name);
        for _ in 0..25 {
            for command in [
                "exec true",
                "suexec www-data true",
                "pkg list",
                "chkconfig --list",
            ] {
                let (status, text) = from_shell(&host, &preparation, &format!("{name} {command}"));
                assert!(status.is_some(), "{command}: {text}");
            }
            let enter = format!("{preparation}; echo exit | {}", line(&host, "web enter"));
            let mut shell = Command::new("bash");
            shell.args(["-c", &enter]).env(SECRET, SECRET);
            assert!(shell.output().unwrap().status.success());
        }
        let (seen, count) = seen(&host, name, watcher);
        assert_eq!(seen, "", "own users: {own_users}");
        assert!(count > 25, "it stopped {count} processes");
        host.ok(&[name, "stop"]);
        host.ok(&["--silent", name, "delete"]);
    }
}

#[test]
fn a_directory_of_the_host_is_no_standard_stream_of_a_guest() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    for (stream, name) in [("<", "input"), ("1<", "output"), ("2<", "error")] {
        let (status, text) = from_shell(&host, ":", &format!("web exec touch /ran {stream}/"));
        assert_eq!(status, Some(1), "{text}");
        // What is said on standard error cannot be seen where that is the directory.
        assert!(stream == "2<" || text.contains(name), "{text}");
        assert!(!host.vdir("web").join("ran").exists());
    }
}

/// Says which of its standard streams are terminals, and which of these are none of its guest's.
const TERMINALS: &str = r#"#!/bin/sh
own=$(stat -c %d /dev/pts)
for d in 0 1 2; do
    [ -t $d ] || continue
    if [ "$(stat -Lc %d /proc/$$/fd/$d)" = "$own" ]; then echo own $d >>/tmp/seen; else echo got $d >>/tmp/seen; fi
done
(exec 5<>/dev/tty) 2>/dev/null && echo controls >>/tmp/seen
echo shown >&2
echo ran >>/tmp/seen
"#;

#[test]
fn no_command_gets_the_hosts_terminal_whatever_is_redirected() {
    let host = Host::new();
    host.sleeper("web");
    let program = host.vdir("web").join("bin/terminals");
    fs::write(&program, TERMINALS).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let seen = host.vdir("web").join("tmp/seen");
    host.ok(&["web", "start"]);
    for command in ["exec terminals", "suexec www-data /bin/terminals"] {
        for (redirected, own) in [
            ("", "own 0\nown 1\nown 2\n"),
            ("| cat", "own 0\nown 2\n"),
            ("</dev/null", "own 1\nown 2\n"),
            (">/dev/null", "own 0\nown 2\n"),
            ("2>/dev/null", "own 0\nown 1\n"),
            ("</dev/null >/dev/null", "own 2\n"),
            (">/dev/null 2>&1", "own 0\n"),
            ("</dev/null 2>/dev/null | cat", ""),
        ] {
            drop(fs::remove_file(&seen));
            let call = format!("{} {redirected}", line(&host, &format!("web {command}")));
            let mut script = Command::new("script");
            script
                .args(["-qec", &call, "/dev/null"])
                .stdin(Stdio::null());
            let output = script.output().unwrap();
            let shown = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{call}: {shown}");
            let text = fs::read_to_string(&seen).unwrap();
            let controls = if own.is_empty() { "" } else { "controls\n" };
            assert_eq!(text, format!("{own}{controls}ran\n"), "{call}");
            let is_shown = !redirected.contains("2>");
            assert_eq!(shown.contains("shown"), is_shown, "{call}: {shown}");
        }
    }
}

#[test]
fn a_daemon_left_behind_hears_nothing_of_the_hosts_terminal() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    // Its terminal is not taken away before it can bear that.
    let daemon = "(trap \"\" HUP; touch /tmp/ready; while read -r typed; do echo \"$typed\" >>/tmp/heard; done; \
                  echo end >>/tmp/heard) <&2 & until [ -e /tmp/ready ]; do sleep 0.1; done";
    let call = line(
        &host,
        &format!("web exec bash -c '{daemon}' | cat; read -r x; echo $x-"),
    );
    let mut script = Command::new("script");
    script.args(["-qec", &call, "/dev/null"]);
    let mut child = script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let heard = host.vdir("web").join("tmp/heard");
    wait_until("the daemon lost its terminal", || heard.exists());
    child.stdin.as_mut().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("typed-"), "{shown}");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(fs::read_to_string(&heard).unwrap(), "end\n");
}
