//! What outlives exec beside descriptors and memory: nothing of it is the caller's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::super::host::Host;
use super::{line, styles};

/// A caller that is as unusual as its root can be. What this machine does not let it do, it leaves out.
const UNUSUAL: &str = "for file in oom_score_adj:321 coredump_filter:0x1 timerslack_ns:987654; do \
                       echo ${file#*:} >/proc/self/${file%:*} 2>/dev/null; done; \
                       trap '' HUP INT QUIT USR1 TERM; renice -n 7 $$ >/dev/null; \
                       ionice -c 3 -p $$; taskset -pc 0 $$ >/dev/null; chrt --batch -p 0 $$";

/// What comes before the command, since a shell cannot do it for itself.
const WRAPPED: &str = "setarch -R env --block-signal=CHLD,WINCH,USR2";

/// Prints what a process has, a line each.
const SHOW: &str = r#"
p=/proc/self; [ -n "$1" ] && p=/proc/$1
echo "scheduling $(sed 's/.*) //' $p/stat | cut -d' ' -f17,38,39)"
echo "oom $(cat $p/oom_score_adj)"
echo "dump $(cat $p/coredump_filter)"
grep -E '^(SigBlk|SigIgn|Cpus_allowed|Mems_allowed):' $p/status
echo "slack $(cat $p/timerslack_ns 2>/dev/null)"
echo "personality $(cat $p/personality 2>/dev/null)"
"#;

/// A host's process that the kernel and its init have left as it is: what every process of a guest is to be like.
fn assert_usual(text: &str, whose: &str) {
    let value = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name));
        found
            .unwrap_or_else(|| panic!("{whose}: no {name}: {text}"))
            .trim()
    };
    // Priority 0 of the ordinary kind.
    assert_eq!(value("scheduling "), "0 0 0", "{whose}");
    assert_eq!(value("oom "), "0", "{whose}");
    assert_eq!(value("dump "), "00000033", "{whose}");
    for signals in ["SigBlk:", "SigIgn:"] {
        let bits = u64::from_str_radix(value(signals), 16).unwrap();
        assert_eq!(bits, 0, "{whose}: {signals} {bits:x}");
    }
    let of_host = fs::read_to_string("/proc/1/status").unwrap();
    for name in ["Cpus_allowed:", "Mems_allowed:"] {
        let usual = of_host.lines().find_map(|line| line.strip_prefix(name));
        assert_eq!(Some(value(name)), usual.map(str::trim), "{whose}: {name}");
    }
    assert!(["", "50000"].contains(&value("slack ")), "{whose}: {text}");
    assert!(
        ["", "00000000"].contains(&value("personality ")),
        "{whose}: {text}"
    );
}

/// Runs it as that caller does. Gives what it printed.
fn from_unusual(host: &Host, arguments: &str, stdin: &str) -> String {
    let script = format!(
        "{UNUSUAL}; printf '{stdin}' | {WRAPPED} {}",
        line(host, arguments)
    );
    let mut shell = Command::new("bash");
    let output = shell
        .args(["-c", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Puts a script in the place of a program of the guest.
fn put(host: &Host, path: &str, script: &str) {
    let path = host.vdir("web").join(path);
    drop(fs::remove_file(&path));
    fs::write(&path, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn scheduling_signals_and_the_like_are_none_of_the_callers() {
    let host = Host::new();
    for style in styles() {
        host.sleeper("web");
        host.set("web", "apps/init/style", &format!("{style}\n"));
        put(&host, "usr/bin/show", SHOW);
        put(&host, "usr/bin/dpkg-query", "exec show");
        put(&host, "usr/sbin/update-rc.d", "exec show");
        from_unusual(&host, "web start", "");
        let init = host.state("web")["init"]["pid"].as_i64().unwrap();
        let mut show = Command::new("sh");
        let seen = show
            .args(["-c", SHOW, "show", &init.to_string()])
            .output()
            .unwrap();
        assert_usual(
            &String::from_utf8(seen.stdout).unwrap(),
            &format!("init of {style}"),
        );
        for command in [
            "exec show",
            "suexec www-data show",
            "pkg list",
            "chkconfig ssh on",
        ] {
            let said = from_unusual(&host, &format!("web {command}"), "");
            assert_usual(&said, &format!("{command} in {style}"));
        }
        let said = from_unusual(&host, "web enter", "exec show\\n");
        assert_usual(&said, &format!("enter in {style}"));
        host.delete_at_once("web");
    }
}

#[test]
fn a_caller_that_ignores_a_signal_does_not_pass_it_on() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    // As nohup(1) has it, whose users close their terminal.
    let command = line(&host, "web exec sh -c \"sleep 1; echo done\"");
    let script = format!(
        "trap '' HUP; {command} </dev/null & kill -HUP $!; sleep 0.5; kill -HUP $!; wait $!"
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "done\n",
        "{output:?}"
    );
}
