//! Work in the root directory of a guest, in a thread whose calls wait for a broker.
#![allow(unsafe_code)] // What a thread has in common with the others.

use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;

use libcontainer::oci_spec::runtime::LinuxSeccomp;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::{Value, json};
use vhashify::broker::Broker;
use vhashify::broker::serve::serve;
use vserver::context::call_numbers::call_table;
use vserver::context::filter::load_filter;
use vserver::context::notify;

use vhashify_testkit::filesystem::{Filesystem, Kind};
use vhashify_testkit::moments::snapshots;
use vhashify_testkit::program::{Host, is_guarded, output};
use vhashify_testkit::snapshot::{Snapshot, check_store};

use super::super::engine::breaker;

/// Says to this test program which filesystem it is to test, in a process of its own: libseccomp makes
/// one listener for each process.
const ALONE: &str = "VHASHIFY_TEST_ALONE";

/// Runs `test`, whose name below this module it is, on each kind of filesystem, in a process of its own.
pub fn alone(test: &str, kinds: &[Kind], body: impl Fn(&Filesystem)) {
    if let Ok(chosen) = std::env::var(ALONE) {
        let kind = kinds.iter().find(|kind| format!("{kind:?}") == chosen);
        body(&Filesystem::new(*kind.unwrap()));
        return;
    }
    for kind in kinds {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args([
                "--exact",
                &format!("cow::broker::{test}"),
                "--include-ignored",
                "--nocapture",
            ])
            .env(ALONE, format!("{kind:?}"));
        let done = output(&mut child);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "on {kind:?}: {said}");
        // Where no test has the name, none fails.
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(
            told.contains("test result: ok. 1 passed;"),
            "{test}: {told}"
        );
        #[allow(clippy::print_stderr)]
        {
            eprint!("{said}");
        }
    }
}

/// Does `work` in the first guest: its root is that guest's, and its calls wait for the broker.
pub fn in_guest<T: Send>(host: &Host, work: impl FnOnce() -> T + Send) -> T {
    let mut spec = json!({ "linux": { "seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [],
    } } });
    notify::add(&mut spec, "/none");
    in_guest_under(host, spec["linux"]["seccomp"].take(), work)
}

/// The same under this filter.
pub fn in_guest_under<T: Send>(host: &Host, filter: Value, work: impl FnOnce() -> T + Send) -> T {
    let permit = is_guarded().then(|| vhashify::protect::guard::Permit::acquire().unwrap());
    let broker = Arc::new(Broker::new(
        breaker(host, 0),
        Box::new(Vec::new),
        Arc::new(call_table()),
    ));
    let (listeners, listener) = channel();
    let (ready, go) = channel::<()>();
    let root = host.guests[0].clone();
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: only this thread's root and working directory part from the others'.
            unsafe { unshare_unsafe(UnshareFlags::FS) }.unwrap();
            rustix::process::chroot(&root).unwrap();
            rustix::process::chdir("/").unwrap();
            let filter: LinuxSeccomp = serde_json::from_value(filter).unwrap();
            listeners
                .send(load_filter(&filter).unwrap().unwrap())
                .unwrap();
            go.recv().unwrap();
            work()
        });
        let threads = serve(&broker, listener.recv().unwrap().into(), 3).unwrap();
        ready.send(()).unwrap();
        let result = thread.join();
        for thread in threads {
            thread.join().unwrap();
        }
        result
    });
    drop(permit);
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The other guests, and the store, are what they were.
pub fn others(host: &Host, work: impl FnOnce()) {
    let before = snapshots(host);
    work();
    for (number, before) in before.iter().enumerate().skip(1) {
        let after = Snapshot::of(&host.guests[number]);
        before.assert_same(&after, &format!("guest {number}"));
    }
    check_store(&host.store());
}
