//! Walks of a guest, which the guest pays for: what happens where it cannot or will not.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::process::{Signal, getpid, kill_process};
use vhashify_testkit::filesystem::{Kind, on_each};
use vhashify_testkit::moments::snapshots;
use vhashify_testkit::snapshot::Snapshot;

use super::engine::{break_path, breaker, ino, place_in, shared_guests};

#[test]
fn inv6_a_walk_that_the_guest_does_not_pay_for_leaves_everything_as_it_was() {
    on_each(|filesystem| {
        if filesystem.kind != Kind::Ext4 {
            return;
        }
        let host = shared_guests(&place_in(filesystem));
        let before = snapshots(&host);
        let own = getpid();
        let refuse = |_: u32| Err(io::Error::from(io::ErrorKind::PermissionDenied));
        // As the killer of a cgroup that is out of memory does.
        let die = move |_: u32| {
            assert_ne!(getpid(), own, "it is done by another process");
            Ok(kill_process(getpid(), Signal::KILL)?)
        };
        let unable = breaker(&host, 0).paid_by(Arc::new(refuse));
        let said = break_path(&unable, "d/single").unwrap_err();
        assert!(said.contains("Resource temporarily unavailable"), "{said}");
        let killed = breaker(&host, 0).paid_by(Arc::new(die));
        let said = break_path(&killed, "d/single").unwrap_err();
        assert!(said.contains("Cannot allocate memory"), "{said}");
        for (guest, before) in host.guests.iter().zip(&before) {
            before.assert_same(&Snapshot::of(guest), "nobody paid");
        }
        let paid = breaker(&host, 0).paid_by(Arc::new(|_| Ok(())));
        break_path(&paid, "d/group0").unwrap();
        for name in ["d/group0", "d/group1", "e/group2", "e/group3"] {
            let file = fs::metadata(host.guests[0].join(name)).unwrap();
            assert_eq!(file.nlink(), 4, "{name}");
            assert_ne!(file.ino(), ino(&host, 1, name), "{name}");
        }
    });
}
