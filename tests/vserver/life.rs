//! A guest is started, watched and stopped, and nothing of it is left.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::host::{Host, listing, wait_until};

#[test]
fn a_guest_starts_runs_and_stops_and_nothing_is_left() {
    let host = Host::new();
    host.sleeper("web");
    let before = listing(&host.vdir("web"));
    assert_eq!(host.run(&["web", "running"]).status.code(), Some(1));
    let said = host.ok(&["web", "start"]);
    let context = host.context("web");
    assert_eq!(said, format!("web is started, with context {context}\n"));
    assert!(host.is_running("web"));
    let status = host.ok(&["web", "status"]);
    assert!(
        status.starts_with("web is running, with context"),
        "{status}"
    );
    assert!(status.contains("\nprocesses: 1\n"), "{status}");
    assert_eq!(host.ok(&["web", "exec", "hostname"]), "web\n");
    assert_eq!(host.ok(&["web", "stop"]), "web is stopped\n");
    assert_eq!(host.run(&["web", "running"]).status.code(), Some(1));
    host.assert_nothing_is_left("web", context);
    assert_eq!(listing(&host.vdir("web")), before);
    assert_eq!(host.run(&["web", "status"]).status.code(), Some(3));
}

#[test]
fn guests_without_a_context_of_their_own_get_different_free_ones() {
    let host = Host::new();
    for name in ["web", "mail"] {
        host.sleeper(name);
        fs::remove_file(host.at("conf").join(name).join("context")).unwrap();
        host.ok(&[name, "start"]);
    }
    let contexts = ["web", "mail"].map(|name| host.context(name));
    assert_ne!(contexts[0], contexts[1]);
    for context in contexts {
        assert!((49152..=65535).contains(&context), "{context}");
    }
}

/// nohup, cron and a shell's background leave signals ignored, and some of them blocked.
#[test]
fn no_signal_that_the_caller_ignores_or_blocks_is_lost_on_init() {
    let host = Host::new();
    host.sleeper("web");
    let mut ignoring = Command::new("env");
    ignoring.args(["--ignore-signal", "--block-signal"]);
    let start = host.vserver(&["web", "start"]);
    ignoring.arg(start.get_program()).args(start.get_args());
    assert!(ignoring.status().unwrap().success());
    let init = host.state("web")["init"]["pid"].as_i64().unwrap();
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    for field in ["SigBlk:", "SigIgn:"] {
        let line = status.lines().find(|line| line.starts_with(field));
        let mask = line.unwrap().split_whitespace().nth(1).unwrap();
        // 32 and 33 are the C library's own, which sets them as it needs them.
        let others = u64::from_str_radix(mask, 16).unwrap() & !(0b11 << 31);
        assert_eq!(others, 0, "{status}");
    }
}

#[test]
fn inv1_a_guest_that_ends_by_itself_keeps_every_file() {
    // In its monitor's mount namespace the guest's root lies below the state directory: what tidies
    // that away must not descend into it.
    let host = Host::new();
    host.guest("web", &["/bin/sh", "-c", "echo good-bye; exit 7"]);
    let before = listing(&host.vdir("web"));
    host.ok(&["web", "start"]);
    wait_until("the guest ends", || {
        !host.at("state/web/guest.json").exists()
    });
    assert_eq!(listing(&host.vdir("web")), before);
    assert_eq!(host.console("web"), "good-bye\n");
    let status = host.run(&["web", "status"]);
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("its init exited with status 7"), "{status}");
}

#[test]
fn of_many_starts_at_one_instant_one_wins() {
    let host = Host::new();
    host.sleeper("web");
    let mut starts: Vec<_> = (0..6)
        .map(|_| {
            let mut start = host.vserver(&["web", "start"]);
            start.stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut won = 0;
    for start in starts.drain(..) {
        let output = start.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => won += 1,
            Some(1) => assert_eq!(error.lines().count(), 1, "{error}"),
            other => panic!("{other:?}: {error}"),
        }
    }
    assert_eq!(won, 1);
    let line = host.refused(&["web", "start"], 1);
    assert!(line.contains("already running"), "{line}");
}

#[test]
fn an_init_that_ignores_everything_is_killed_within_a_limit() {
    let host = Host::new();
    let ignoring = "trap '' TERM INT HUP; while :; do sleep 1; done";
    host.guest("web", &["/bin/sh", "-c", ignoring]);
    host.set("web", "apps/init/killseq", "TERM 1 INT 1\n");
    host.ok(&["web", "start"]);
    let context = host.context("web");
    let begun = Instant::now();
    host.ok(&["web", "stop"]);
    assert!(begun.elapsed() < Duration::from_secs(15));
    host.assert_nothing_is_left("web", context);
}

#[test]
fn an_init_that_handles_a_signal_has_its_time() {
    let host = Host::new();
    let handling = "trap 'sleep 1; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    host.guest("web", &["/bin/sh", "-c", handling]);
    host.ok(&["web", "start"]);
    wait_until("it is ready", || host.console("web") == "ready\n");
    host.ok(&["web", "stop"]);
    let status = String::from_utf8(host.run(&["web", "status"]).stdout).unwrap();
    assert!(status.contains("exited with status 5"), "{status}");
}

#[test]
fn its_own_stop_command_comes_first() {
    let host = Host::new();
    let waiting = "while ! [ -e /tmp/stop ]; do sleep 0.05; done; exit 4";
    host.guest("web", &["/bin/sh", "-c", waiting]);
    host.set(
        "web",
        "apps/init/cmd.stop",
        "/bin/sh\n-c\ntouch /tmp/stop; sleep 1\n",
    );
    host.ok(&["web", "start"]);
    host.ok(&["web", "stop"]);
    let status = String::from_utf8(host.run(&["web", "status"]).stdout).unwrap();
    assert!(status.contains("exited with status 4"), "{status}");
}

#[test]
fn style_sysv_stays_as_long_as_the_guest_has_processes() {
    let host = Host::new();
    host.guest("web", &["/bin/sh", "-c", "sleep 1000 & echo started"]);
    host.set("web", "apps/init/style", "sysv\n");
    host.ok(&["web", "start"]);
    wait_until("its start command ends", || {
        host.console("web") == "started\n"
    });
    assert!(host.is_running("web"));
    let context = host.context("web");
    host.ok(&[
        "web",
        "exec",
        "sh",
        "-c",
        "kill $(pidof sleep) || kill -9 -1; true",
    ]);
    wait_until("the guest ends", || !host.is_running("web"));
    host.assert_nothing_is_left("web", context);
}

#[test]
fn a_guest_outlives_its_monitor_and_the_next_command_mends() {
    let host = Host::new();
    host.guest(
        "web",
        &["/bin/sh", "-c", "while sleep 0.1; do echo on; done"],
    );
    host.ok(&["web", "start"]);
    let context = host.context("web");
    let monitor = || host.state("web")["monitor"]["pid"].as_i64().unwrap();
    let first = monitor();
    kill(first);
    assert!(host.is_running("web"));
    assert_ne!(monitor(), first, "nobody watches it");
    let length = host.console("web").len();
    wait_until("its console is followed again", || {
        host.console("web").len() > length
    });
    host.ok(&["web", "stop"]);
    host.assert_nothing_is_left("web", context);
}

#[test]
fn a_guest_that_dies_with_its_monitor_is_tidied_away_by_the_next_command() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let context = host.context("web");
    let before = listing(&host.vdir("web"));
    for who in ["monitor", "init"] {
        kill(host.state("web")[who]["pid"].as_i64().unwrap());
    }
    assert!(!host.is_running("web"));
    host.assert_nothing_is_left("web", context);
    assert_eq!(listing(&host.vdir("web")), before);
    host.ok(&["web", "start"]);
}

#[test]
fn a_guest_that_reboots_is_started_again_and_one_that_halts_is_not() {
    let reboot = |how: &str| format!("syscall(169, 0xfee1dead, 672274793, {how}, 0)");
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let init = |host: &Host| host.state("web")["init"]["pid"].as_i64();
    let first = init(&host);
    drop(host.run(&["web", "exec", "perl", "-e", &reboot("0x1234567")]));
    wait_until("it is started again", || {
        host.at("state/web/guest.json").exists() && host.is_running("web") && init(&host) != first
    });
    drop(host.run(&["web", "exec", "perl", "-e", &reboot("0x4321fedc")]));
    wait_until("it halts", || !host.is_running("web"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!host.is_running("web"));
}

#[test]
fn a_monitor_is_small() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let monitor = &host.state("web")["monitor"]["pid"];
    let of_program = || fs::read_to_string(format!("/proc/{monitor}/cmdline")).unwrap();
    wait_until("it watches", || of_program().contains("--monitor-watch"));
    // What it alone has: the program's pages are one copy for all monitors.
    let status = fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
    let own = status
        .lines()
        .find(|line| line.starts_with("RssAnon"))
        .unwrap();
    let kilobytes: u64 = own.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kilobytes <= 2048, "{own}");
}

#[test]
fn restart_and_condrestart_do_what_they_say() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "condrestart"]);
    assert!(!host.is_running("web"));
    host.ok(&["web", "restart"]);
    let first = host.state("web")["init"]["pid"].as_i64();
    host.ok(&["web", "condrestart"]);
    assert_ne!(host.state("web")["init"]["pid"].as_i64(), first);
    host.ok(&["web", "stop"]);
    host.guest("lost", &["/bin/nothing"]);
    host.ok(&["lost", "start", "--rescue"]);
    assert!(host.is_running("lost"));
}

pub fn kill(pid: i64) {
    let done = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(done.unwrap().success());
    wait_until("it is dead", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.rsplit_once(')').unwrap().1.trim().starts_with('Z')
    });
}

#[test]
fn a_daemon_that_runs_as_a_user_of_the_guest_writes_its_log_to_dev_stdout() {
    let host = Host::new();
    // It opens the console anew, as its user.
    let daemon = "setpriv --reuid 33 --regid 33 --clear-groups sh -c \
                  'echo to-stdout >/dev/stdout; echo to-stderr >/dev/stderr; exec sleep 1000'";
    let mut styles = vec!["plain", "sysv"];
    if fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains("cgroup2")) {
        styles.extend(["systemd", "minit"]);
    }
    for style in styles {
        for users in ["host", "own"] {
            host.guest(style, &["/bin/sh", "-c", daemon]);
            host.set(style, "apps/init/style", &format!("{style}\n"));
            host.set(style, "spaces/user", &format!("{users}\n"));
            host.ok(&[style, "start"]);
            wait_until("both lines are in the log", || {
                host.console(style) == "to-stdout\nto-stderr\n"
            });
            // What is written there is not to be read there.
            let read = [style, "suexec", "33", "cat", "/proc/1/fd/1"];
            assert!(!host.run(&read).status.success());
            host.delete_at_once(style);
        }
    }
}
