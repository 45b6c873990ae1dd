//! A guest that reboots itself is started again, and one that does so without end costs the host little.

use std::fs;
use std::time::{Duration, Instant};

use super::host::{Host, wait_at_most, wait_until};

/// Marks that it runs, and reboots: the call's number and `LINUX_REBOOT_CMD_RESTART`.
const REBOOT: &str = "open(my $to, '>>', '/root/boots'); syswrite($to, 'x'); close $to; \
                      syscall(169, 0xfee1dead, 672274793, 0x1234567, 0); sleep 1000";

fn boots(host: &Host) -> u64 {
    let marks = host.vdir("web").join("root/boots");
    fs::metadata(marks).map_or(0, |marks| marks.len())
}

#[test]
fn a_guest_that_reboots_at_once_is_started_more_and_more_slowly_and_can_be_stopped() {
    let host = Host::new();
    host.guest("web", &["/usr/bin/perl", "-e", REBOOT]);
    host.ok(&["web", "start"]);
    let begun = Instant::now();
    wait_at_most(Duration::from_secs(20), "it is started again", || {
        boots(&host) >= 4
    });
    // 1, 2 and 4 seconds.
    assert!(
        begun.elapsed() > Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    wait_until("the next start waits", || {
        let status = host.run(&["web", "status"]).stdout;
        String::from_utf8(status)
            .unwrap()
            .contains("started again in")
    });
    let before = boots(&host);
    assert_eq!(host.ok(&["web", "stop"]), "web is stopped\n");
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(boots(&host), before);
    let line = host.refused(&["web", "stop"], 1);
    assert!(line.contains("not running"), "{line}");
    // An administrator's start begins anew.
    host.ok(&["web", "start"]);
    let again = before + 2;
    wait_at_most(Duration::from_secs(5), "it is started again", || {
        boots(&host) >= again
    });
    host.set("web", "apps/init/killseq", "KILL\n");
    host.ok(&["web", "stop"]);
}

#[test]
fn a_stop_at_any_moment_of_a_reboot_is_one() {
    let host = Host::new();
    host.guest("web", &["/usr/bin/perl", "-e", REBOOT]);
    host.set("web", "apps/init/killseq", "KILL\n");
    for milliseconds in [0, 40, 120, 300, 700, 1100, 1300, 1600] {
        host.ok(&["web", "start"]);
        std::thread::sleep(Duration::from_millis(milliseconds));
        host.ok(&["web", "stop"]);
        let before = boots(&host);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(boots(&host), before, "stopped after {milliseconds} ms");
    }
}
