//! Every way by which a path or a descriptor leads to a shared file: the broker finds the file as the kernel does for
//! the caller, or the call is refused.

use std::collections::BTreeMap;
use std::fs;

use vhashify_testkit::snapshot::Snapshot;

use super::super::host::Host;
use super::guests::{assert_untouched, bring_c, date_all, host_of, start};

/// A file of `web` and `mail` for each way that the program `ways` knows.
fn host_with_files() -> Host {
    let host = host_of(&["web", "mail"]);
    for guest in ["web", "mail"] {
        let directory = host.vdir(guest).join("opt/ways");
        fs::create_dir_all(&directory).unwrap();
        for way in names() {
            fs::write(directory.join(way), way.repeat(1000)).unwrap();
        }
        date_all(&directory);
    }
    bring_c(&host, "web", "ways.c", "usr/local/ways");
    host
}

fn names() -> impl Iterator<Item = &'static str> {
    include_str!("../ways.c")
        .split("WAY(")
        .skip(2)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(name, _)| name)
}

/// What became of each way; `mail` and the store are as they were.
fn go(host: &Host, arguments: &[&str]) -> BTreeMap<String, String> {
    let mail = start(host);
    let hash = Snapshot::of(&host.at("hash"));
    let said = host.ok(&[&["web", "exec", "/usr/local/ways"], arguments].concat());
    #[allow(clippy::print_stderr)]
    {
        eprintln!("{said}");
    }
    assert_untouched(host, &mail, &said);
    assert_eq!(hash.differences(&Snapshot::of(&host.at("hash"))), [""; 0]);
    let lines = said.lines().filter_map(|line| line.split_once(": "));
    lines
        .map(|(way, what)| (way.to_owned(), what.to_owned()))
        .collect()
}

#[test]
fn inv4_every_way_to_a_shared_file_leads_to_the_guests_own_copy_or_nowhere() {
    let host = host_with_files();
    for (way, what) in go(&host, &[]) {
        let expected: &[&str] = match way.as_str() {
            // Another process's descriptor still leads to the shared file.
            "descriptor_of_child" | "descriptor_in_both" => &["Operation not permitted"],
            // Not every kernel has such memory.
            "watched_by_fanotify" => &["written", "Function not implemented"],
            "secret_path" | "secret_how" => &["Bad address", "Function not implemented"],
            "fchmodat_2" | "setxattr_at" | "file_set_attr" => &[
                "written",
                "Function not implemented",
                "Operation not supported",
            ],
            _ => &["written"],
        };
        assert!(expected.contains(&what.as_str()), "{way}: {what}");
    }
}

#[test]
fn inv4_a_guest_that_may_mount_finds_no_other_way_to_a_shared_file() {
    let host = host_with_files();
    host.set("web", "bcapabilities", "CAP_SYS_ADMIN\n");
    for (way, what) in go(&host, &["mounts"]) {
        assert_eq!(what, "written", "{way}");
    }
}
