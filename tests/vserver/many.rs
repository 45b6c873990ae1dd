//! Many guests: what they use, and in what order they start and stop.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use vhashify_testkit::built;

use super::host::{Host, wait_at_most, wait_until};

#[test]
fn vserver_stat_shows_each_running_guest() {
    let host = Host::new();
    for (name, context) in [("web", "1260"), ("mail", "1261")] {
        host.sleeper(name);
        host.set(name, "context", context);
        host.ok(&[name, "start"]);
    }
    host.sleeper("off");
    let state = host.at("state");
    let state = state.to_str().unwrap();
    // Under its own name, as a link would call it.
    let mut stat = Command::new(built::vserver());
    stat.arg0("/usr/sbin/vserver-stat")
        .args(["--state-dir", state]);
    let output = stat.output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(
        lines[1].starts_with("1260      1 ") && lines[1].ends_with("  web"),
        "{table}"
    );
    assert!(
        lines[2].starts_with("1261      1 ") && lines[2].ends_with("  mail"),
        "{table}"
    );
    let mut stat = Command::new(built::vserver());
    stat.args(["vserver-stat", "--state-dir", state, "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&stat.output().unwrap().stdout).unwrap();
    let web = &json["guests"][0];
    assert_eq!(web["name"], "web");
    assert_eq!(web["context"], 1260);
    assert_eq!(web["processes"], 1);
    for counted in ["memory_bytes", "cpu_nanoseconds"] {
        assert!(web[counted].as_u64().unwrap() > 0, "{counted}");
    }
}

#[test]
fn vps_and_vkill_know_whose_a_process_is() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let state = host.at("state");
    let state = state.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(built::vserver());
        command.arg(arguments[0]).args(["--state-dir", state]);
        command.args(&arguments[1..]).output().unwrap()
    };
    let init = host.state("web")["init"]["pid"].to_string();
    let words = || {
        let shown = run(&["vps", "-o", "pid,comm", "-p", &init]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        let line = shown.lines().nth(1).unwrap();
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    // `start` lets init go and does not wait until it has executed its program.
    wait_at_most(Duration::from_secs(30), "init is sleep", || {
        words().last().is_some_and(|name| name == "sleep")
    });
    assert_eq!(words(), ["web", &init, "sleep"]);
    let mine = std::process::id().to_string();
    let refused = run(&["vkill", "--xid", "web", "-s", "KILL", &mine]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no process of web"));
    assert!(
        run(&["vkill", "--xid", "web", "-s", "KILL", "1"])
            .status
            .success()
    );
    wait_until("it ends", || !host.is_running("web"));
}

#[test]
fn marked_guests_start_after_what_they_depend_on_and_stop_before_it() {
    let host = Host::new();
    for name in ["web", "mail", "db", "other"] {
        // Each says when, on a clock that all share.
        let script = "trap 'exit 0' TERM; cut -d' ' -f1 /proc/uptime; while sleep 0.05; do :; done";
        host.guest(name, &["/bin/sh", "-c", script]);
    }
    for name in ["web", "mail"] {
        host.set(name, "apps/init/mark", "default\n");
        host.set(name, "apps/init/depends", "db\n");
    }
    let many = |command: &str| {
        let conf = host.at("conf");
        let state = host.at("state");
        let mut run = Command::new(built::vserver());
        run.arg(command)
            .arg("--config-dir")
            .arg(conf)
            .arg("--state-dir")
            .arg(state);
        run.output().unwrap()
    };
    let output = many("start-vservers");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(!host.is_running("other"));
    let began = |name: &str| {
        wait_until("it says when", || host.console(name).ends_with('\n'));
        host.console(name).trim().parse::<f64>().unwrap()
    };
    let db = began("db");
    assert!(began("web") >= db && began("mail") >= db);
    assert!(many("stop-vservers").status.success());
    assert!(!host.is_running("web") && !host.is_running("mail"));
    // It has no mark, and may serve others.
    assert!(host.is_running("db"));
    host.set("db", "apps/init/depends", "web\n");
    let output = many("start-vservers");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said.contains("circle") && said.lines().count() == 1,
        "{said}"
    );
    assert!(!host.is_running("web"));
    let link = host.at("start-vservers");
    symlink(built::vserver(), &link).unwrap();
    assert!(
        Command::new(link)
            .arg("--help")
            .output()
            .unwrap()
            .status
            .success()
    );
}
