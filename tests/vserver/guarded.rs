//! A guest whose shared files count on the guard does not start where the guard cannot be had.

use std::fs;

use rustix::fs::{XattrFlags, setxattr};

use super::copy_on_write::guests::host_of;

/// Whether this kernel asks BPF programs: then the guard can be loaded, and holds.
fn can_have_guard() -> bool {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    modules.trim().split(',').any(|module| module == "bpf")
}

#[test]
fn inv4_a_guest_that_counts_on_the_guard_starts_under_it_or_not_at_all() {
    if can_have_guard() {
        // The machines' tests of the guard start guests under it.
        return;
    }
    let host = host_of(&["web"]);
    let store = host.at("hash");
    setxattr(
        &store,
        "trusted.vhashify.guarded",
        b"1",
        XattrFlags::empty(),
    )
    .unwrap();
    // Nothing is shared yet.
    host.ok(&["web", "start"]);
    host.ok(&["web", "stop"]);
    fs::create_dir(store.join("4f")).unwrap();
    fs::hard_link(host.vdir("web").join("bin/true"), store.join("4f/object")).unwrap();
    let said = host.refused(&["web", "start"], 1);
    assert!(
        said.contains("the guard") && said.contains("unguarded"),
        "{said}"
    );
    assert!(!host.is_running("web"));
    host.set("web", "apps/vunify/unguarded", "");
    host.ok(&["web", "start"]);
    host.ok(&["web", "stop"]);
    fs::remove_file(store.join("4f/object")).unwrap();
}
