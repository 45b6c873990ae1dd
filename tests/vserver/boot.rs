//! Guests that boot their own init: systemd of a real Debian, and what stands in for minit. They need
//! cgroup version 2, alone or beside version 1.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use vhashify_testkit::built;

use super::host::{Host, wait_at_most};

/// Booting takes its time where every instruction is emulated.
const BOOTING: Duration = Duration::from_mins(5);

/// A guest that has Debian's systemd, and a service that leaves a file when it is started, and one when
/// it is stopped in an orderly way.
fn guest(host: &Host, name: &str) {
    host.guest_like("booting", name, &[]);
    host.set(name, "apps/init/style", "systemd\n");
    let units = host.vdir(name).join("etc/systemd/system");
    let witness = "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                   ExecStart=/bin/touch /var/started\nExecStop=/bin/touch /var/stopped\n";
    fs::write(units.join("witness.service"), witness).unwrap();
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted).unwrap();
    symlink("../witness.service", wanted.join("witness.service")).unwrap();
}

/// Waits until everything that systemd starts at boot is started, or has failed.
fn wait_for_boot(host: &Host, name: &str) -> String {
    let mut state = String::new();
    let is_up = || {
        state = host.script(name, "systemctl is-system-running").1;
        matches!(state.trim(), "running" | "degraded")
    };
    wait_at_most(BOOTING, "systemd boots the guest", is_up);
    state.trim().to_owned()
}

#[test]
fn systemd_boots_a_guest_and_stops_it_in_order() {
    let host = Host::new();
    guest(&host, "web");
    host.set("web", "cgroup/pids.max", "200\n");
    host.set("web", "context", "1271\n");
    host.ok(&["web", "start"]);
    let context = host.context("web");
    let state = wait_for_boot(&host, "web");
    let failed = host
        .script("web", "systemctl --failed --plain --no-legend")
        .1;
    assert_eq!(state, "running", "{failed}\n{}", host.console("web"));
    assert!(host.vdir("web").join("var/started").exists());
    let said = |script: &str| host.script("web", script).1.trim().to_owned();
    assert_eq!(
        said("cat /proc/1/comm; tr '\\0' '\\n' </proc/1/environ | grep ^container"),
        "systemd\ncontainer=vserver"
    );
    assert_eq!(
        said("stat -f -c %T /run /tmp /sys/fs/cgroup"),
        "tmpfs\ntmpfs\ncgroup2fs"
    );
    assert_eq!(said("test -t 0 </dev/console && echo terminal"), "terminal");
    // The tree is the guest's to divide, and what limits it stands outside.
    assert_eq!(
        said("mkdir /sys/fs/cgroup/own && rmdir /sys/fs/cgroup/own && echo done"),
        "done"
    );
    drop(host.script(
        "web",
        "for f in /sys/fs/cgroup/*.max; do echo max >$f; done",
    ));
    let many = "for i in $(seq 300); do sleep 60 >/dev/null 2>&1 & done; echo no limit";
    assert!(!said(many).contains("no limit"));
    drop(host.script("web", "pkill -x sleep || killall sleep || true"));
    assert!(
        host.console("web").contains("witness.service"),
        "{}",
        host.console("web")
    );
    let begun = Instant::now();
    host.ok(&["web", "stop"]);
    assert!(begun.elapsed() < Duration::from_secs(80), "it was killed");
    assert!(
        host.vdir("web").join("var/stopped").exists(),
        "{}",
        host.console("web")
    );
    host.assert_nothing_is_left("web", context);
}

#[test]
fn a_systemd_guest_reboots_and_powers_off_from_within() {
    let host = Host::new();
    guest(&host, "web");
    host.set("web", "context", "1272\n");
    host.ok(&["web", "start"]);
    wait_for_boot(&host, "web");
    let init = || host.state("web")["init"]["pid"].as_i64();
    let (first, context) = (init(), host.context("web"));
    drop(host.run(&["web", "exec", "systemctl", "reboot"]));
    wait_at_most(BOOTING, "it is started again", || {
        host.is_running("web") && host.at("state/web/guest.json").exists() && init() != first
    });
    wait_for_boot(&host, "web");
    drop(host.run(&["web", "exec", "systemctl", "poweroff"]));
    wait_at_most(BOOTING, "it ends", || !host.is_running("web"));
    host.assert_nothing_is_left("web", context);
}

#[test]
fn a_systemd_guest_that_does_not_stop_is_killed_within_its_time() {
    let host = Host::new();
    guest(&host, "web");
    let units = host.vdir("web").join("etc/systemd/system");
    let slow = "[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStopSec=1000\n\
                ExecStart=/bin/true\nExecStop=/bin/sleep 1000\n";
    fs::write(units.join("witness.service"), slow).unwrap();
    host.set("web", "apps/init/killseq", "RTMIN+3 2\n");
    host.set("web", "context", "1273\n");
    host.ok(&["web", "start"]);
    wait_for_boot(&host, "web");
    let context = host.context("web");
    let begun = Instant::now();
    host.ok(&["web", "stop"]);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(begun.elapsed() < Duration::from_mins(1));
    host.assert_nothing_is_left("web", context);
}

/// Defence: bounds on what a guest may make of its tree, so that each place in it can be removed.
#[test]
fn a_guest_that_divides_its_tree_without_end_is_tidied_away() {
    let host = Host::new();
    host.guest("web", &[]);
    host.set("web", "apps/init/style", "minit\n");
    minit(&host, "web");
    host.set("web", "context", "1274\n");
    host.ok(&["web", "start"]);
    let context = host.context("web");
    let deeper = "cd /sys/fs/cgroup; n=$(printf %0200d 0); \
                  for i in $(seq 60); do mkdir $n && cd $n || break; done; \
                  cd /sys/fs/cgroup; for i in $(seq 6000); do mkdir w$i || break; done; \
                  sleep 1000 >/dev/null 2>&1 & echo $! >w1/cgroup.procs";
    let (_, said) = host.script("web", deeper);
    assert!(said.contains("Resource temporarily unavailable"), "{said}");
    host.ok(&["web", "stop"]);
    host.assert_nothing_is_left("web", context);
}

/// Debian has no minit any more: this has its place, and says what it finds.
fn minit(host: &Host, name: &str) {
    let program = host.vdir(name).join("sbin/minit");
    let script = "#!/bin/sh\ntrap 'echo good-bye; exit 3' INT\n\
                  test -t 1 && echo \"$$ $container $(stat -f -c %T /run)\"\n\
                  while :; do sleep 0.01; done\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn style_minit_boots_the_guests_minit_on_a_console() {
    let host = Host::new();
    host.guest("web", &[]);
    host.set("web", "apps/init/style", "minit\n");
    let line = host.refused(&["web", "start"], 1);
    assert!(line.contains("it has no /sbin/minit"), "{line}");
    minit(&host, "web");
    host.set("web", "context", "1275\n");
    host.ok(&["web", "start"]);
    let context = host.context("web");
    let is_up = || host.console("web").contains("1 vserver tmpfs");
    wait_at_most(BOOTING, "minit says what it finds", is_up);
    // A shell that starts a program has all signals blocked for a moment: it is not taken for one that
    // reads them, and given a minute and a half for each.
    let begun = Instant::now();
    host.ok(&["web", "stop"]);
    assert!(begun.elapsed() < Duration::from_mins(1));
    let status = String::from_utf8(host.run(&["web", "status"]).stdout).unwrap();
    assert!(status.contains("exited with status 3"), "{status}");
    assert!(host.console("web").contains("good-bye"));
    host.assert_nothing_is_left("web", context);
    host.ok(&["web", "start", "--rescue"]);
    assert_eq!(host.ok(&["web", "exec", "cat", "/proc/1/comm"]), "sleep\n");
}

#[test]
fn a_host_without_cgroup_version_2_says_so() {
    let host = Host::new();
    guest(&host, "web");
    let start = format!(
        "umount $(awk '/ - cgroup2 /{{ print $5 }}' /proc/self/mountinfo) && \
         exec {} --config-dir {} --state-dir {} web start",
        built::vserver().display(),
        host.at("conf").display(),
        host.at("state").display()
    );
    let mut unshare = Command::new("unshare");
    let output = unshare.args(["--mount", "sh", "-c", &start]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("needs cgroup version 2"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!host.at("state/web/guest.json").exists());
}
