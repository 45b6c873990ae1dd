//! What the monitor of a guest says of its work, and where: its standard streams are nobody's.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::host::{Host, wait_until};
use super::inherited::{line, styles};

fn log(host: &Host, name: &str) -> String {
    fs::read_to_string(host.at("state").join(name).join("monitor.log")).unwrap_or_default()
}

/// The monitor, once it watches.
fn monitor(host: &Host, name: &str) -> i64 {
    let monitor = host.state(name)["monitor"]["pid"].as_i64().unwrap();
    let arguments = || fs::read_to_string(format!("/proc/{monitor}/cmdline")).unwrap();
    wait_until("it watches", || arguments().contains("--monitor-watch"));
    monitor
}

#[test]
fn a_monitor_logs_a_guests_life_and_has_nothing_on_its_standard_streams() {
    let host = Host::new();
    for style in styles() {
        host.sleeper(style);
        host.set(style, "apps/init/style", &format!("{style}\n"));
        host.set(style, "apps/vunify/broker", "");
        host.ok(&[style, "start"]);
        let monitor = monitor(&host, style);
        for stream in 0..3 {
            let leads_to = fs::read_link(format!("/proc/{monitor}/fd/{stream}")).unwrap();
            assert_eq!(leads_to, PathBuf::from("/dev/null"), "{style}: {stream}");
        }
        let init = host.state(style)["init"]["pid"].as_i64().unwrap();
        let said = log(&host, style);
        assert!(
            said.contains(&format!(", init {init}\n")),
            "{style}: {said}"
        );
        host.set(style, "apps/init/killseq", "KILL\n");
        host.ok(&[style, "stop"]);
        // The reaper ends when the last of the others has been killed, or is killed itself.
        wait_until("it says how it ended", || {
            let said = log(&host, style);
            said.contains("ended by signal 9") || said.contains("exited with status 137")
        });
        host.ok(&[style, "delete"]);
        assert!(!host.at("state").join(style).exists());
    }
}

#[test]
fn what_goes_wrong_out_of_sight_is_in_the_log() {
    let host = Host::new();
    host.sleeper("web");
    // Nobody reads what a start says that the guest's reboot has brought about.
    host.ok(&["web", "start"]);
    let first = monitor(&host, "web");
    host.set("web", "apps/init/killseq", "rubbish\n");
    // LINUX_REBOOT_CMD_RESTART
    let reboot = "syscall(169, 0xfee1dead, 672274793, 0x1234567, 0)";
    drop(host.run(&["web", "exec", "perl", "-e", reboot]));
    wait_until("the log says why", || log(&host, "web").contains("killseq"));
    wait_until("the log says what", || {
        log(&host, "web").contains("not started again")
    });
    assert!(log(&host, "web").contains("it reboots"));
    assert!(!PathBuf::from(format!("/proc/{first}/fd/0")).exists());
    // A monitor that is killed, and its successor.
    host.set("web", "apps/init/killseq", "KILL\n");
    host.ok(&["web", "start"]);
    let second = monitor(&host, "web").to_string();
    assert!(
        Command::new("kill")
            .args(["-KILL", &second])
            .status()
            .unwrap()
            .success()
    );
    wait_until("a successor watches", || {
        host.is_running("web") && log(&host, "web").contains("this one goes on")
    });
}

#[test]
fn the_log_has_two_files_of_a_bounded_length() {
    let host = Host::new();
    host.sleeper("web");
    let state = host.at("state/web");
    fs::create_dir_all(&state).unwrap();
    fs::write(state.join("monitor.log"), "x".repeat(256 << 10)).unwrap();
    fs::write(state.join("monitor.log.1"), "older").unwrap();
    host.ok(&["web", "start"]);
    assert!(log(&host, "web").contains("started") && !log(&host, "web").contains("xx"));
    assert_eq!(
        fs::metadata(state.join("monitor.log.1")).unwrap().len(),
        256 << 10
    );
}

#[test]
fn the_journal_gets_it_too() {
    let host = Host::new();
    host.sleeper("web");
    let place = host.at("journal");
    fs::create_dir(&place).unwrap();
    let journal = UnixDatagram::bind(place.join("socket")).unwrap();
    journal
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let script = format!(
        "mount -t tmpfs none /run; mkdir -p /run/systemd/journal; mount --bind {} /run/systemd/journal; exec {} </dev/null",
        place.display(),
        line(&host, "web start")
    );
    let mut start = Command::new("unshare");
    let started = start
        .args(["--mount", "sh", "-euc", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(started.status.success(), "{started:?}");
    let mut entry = [0; 4096];
    let length = journal.recv(&mut entry).unwrap();
    let entry = String::from_utf8_lossy(&entry[..length]);
    for field in [
        "SYSLOG_IDENTIFIER=vserver\n",
        "PRIORITY=6\n",
        "VSERVER_GUEST=web\n",
        "MESSAGE=web: started: context ",
    ] {
        assert!(entry.contains(field), "{entry}");
    }
}
