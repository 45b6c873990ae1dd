//! A guest's root that means ill, by a program of its own.

use std::fs;

use vhashify::relink::temporary::{self, Purpose};
use vhashify_testkit::snapshot::Snapshot;

use super::guests::{assert_untouched, bring_c, host_of, run, start};

#[test]
fn a_hostile_guest_does_not_lead_the_broker_to_other_guests_files() {
    let host = host_of(&["web", "mail"]);
    bring_c(&host, "web", "hostile.c", "usr/local/hostile");
    let mail = start(&host);
    let hash = Snapshot::of(&host.at("hash"));
    let traps: Vec<String> = ["tac", "paste", "fmt"]
        .iter()
        .flat_map(|name| {
            [Purpose::Own, Purpose::Share].map(|purpose| {
                let trap = String::from_utf8(temporary::of(name.as_bytes(), purpose)).unwrap();
                format!("/usr/bin/{trap}")
            })
        })
        .collect();
    let seconds = std::env::var("VHASHIFY_TORTURE").map_or("6", |_| "60");
    let mut race = vec!["web", "exec", "/usr/local/hostile", seconds, "race"];
    race.extend(traps.iter().map(String::as_str));
    let done = host.run(&race);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert_untouched(&host, &mail, "hostile");
    // Objects keep their bytes; the guest has only taken its own names away.
    assert_eq!(hash.differences(&Snapshot::of(&host.at("hash"))), [""; 0]);
    // The broker still serves, in bounds.
    run(&host, "echo x >> /usr/bin/base64; rm -rf /usr/local/h");
    let monitor = host.state("web")["monitor"]["pid"].clone();
    let open = fs::read_dir(format!("/proc/{monitor}/fd")).unwrap().count();
    assert!(open < 60, "{open} descriptors");
    assert_untouched(&host, &mail, "afterwards");
}

#[test]
fn calls_of_the_32_bit_convention_break_links_too() {
    let host = host_of(&["web", "mail"]);
    bring_c(&host, "web", "hostile.c", "usr/local/hostile");
    let mail = start(&host);
    run(
        &host,
        "/usr/local/hostile 0 thirty-two /usr/bin/base32; tail -n 1 /usr/bin/base32 | grep -qx '.*32'",
    );
    assert_untouched(&host, &mail, "32 bits");
}
