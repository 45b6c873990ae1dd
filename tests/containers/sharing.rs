//! What a container does to shared files, and what must come of it: its own files change, as one file under
//! all their names, and nobody else's do.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::command;
use vhashify_testkit::snapshot::{Snapshot, check_store};

use super::place::{Broker, Place, wait_until};

/// Every way of changing a file by a path, by a descriptor for writing and by one for reading.
const CHANGES: &str = "set -e
    printf written | dd of=/d/single bs=1 seek=9 conv=notrunc 2>/dev/null
    printf more >> /e/group2
    chmod 600 /d/mode
    chown 7:8 /d/owner
    exec 7</d/held; chmod 711 /proc/self/fd/7
    ln /d/linked /d/linked2; printf more >> /d/linked2
    cd /d; printf new > ./whole";

/// Runs a script in a container; it must succeed.
pub type Run<'a> = &'a dyn Fn(&str);

/// Compiles into the root directory of a container the program that tries what the broker could not see.
pub fn bring_unseen(root: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/containers/unseen.c");
    let mut compile = Command::new("gcc");
    compile.args(["-O1", "-static", "-w", "-o"]);
    command(compile.arg(root.join("bin/unseen")).arg(source));
}

/// The command that runs it in the container.
pub const UNSEEN: &str = "/bin/unseen /d/single";

/// Changes files in the container of `guest0`, whose peer is `guest1`.
fn writes_are_its_own(place: &Place, broker: &Broker, run: Run<'_>) {
    let [own, other] = [0, 1].map(|number| place.host.guests[number].clone());
    let before = Snapshot::of(&other);
    let ino = |guest: &Path, name: &str| fs::metadata(guest.join(name)).unwrap().ino();
    let names = [
        "single", "mode", "owner", "held", "linked", "whole", "group0",
    ];
    for name in names.map(|name| format!("d/{name}")) {
        assert_eq!(ino(&own, &name), ino(&other, &name), "{name} is shared");
    }
    run(CHANGES);
    for name in names.map(|name| format!("d/{name}")) {
        assert_ne!(
            ino(&own, &name),
            ino(&other, &name),
            "{name}: {}",
            broker.said()
        );
    }
    before.assert_same(&Snapshot::of(&other), "the other container");
    check_store(&place.host.store());

    let read = |name: &str| fs::read(own.join(name)).unwrap();
    let look = |name: &str| fs::metadata(own.join(name)).unwrap();
    let shared = |name: &str| fs::read(other.join(name)).unwrap();
    let (single, mut wanted) = (read("d/single"), shared("d/single"));
    wanted[9..16].copy_from_slice(b"written");
    assert_eq!(single, wanted);
    assert_eq!(
        read("d/group0"),
        [shared("d/group0"), b"more".to_vec()].concat()
    );
    for name in ["d/group0", "d/group1", "e/group2", "e/group3"] {
        assert_eq!(
            (ino(&own, name), look(name).nlink()),
            (ino(&own, "d/group0"), 4),
            "{name}"
        );
    }
    assert_eq!(look("d/mode").mode() & 0o7777, 0o600);
    assert_eq!((look("d/owner").uid(), look("d/owner").gid()), (7, 8));
    assert_eq!(
        (ino(&own, "d/linked"), look("d/linked").nlink()),
        (ino(&own, "d/linked2"), 2)
    );
    assert!(read("d/linked").ends_with(b"more"));
    assert_eq!(read("d/whole"), b"new");
    assert_eq!(look("d/held").mode() & 0o7777, 0o711);
    // What it did not touch stays shared.
    assert_eq!(ino(&own, "bin/busybox"), ino(&other, "bin/busybox"));
    assert_eq!(ino(&own, "d/later"), ino(&other, "d/later"));
}

/// What two containers that run do: `guest0`, whose init has begun with `printf begun >> /d/init`, and `guest1`.
/// `before` is what that file held.
pub fn both_write_to_files_of_their_own(
    place: &Place,
    broker: &Broker,
    before: &[u8],
    [web, mail]: [Run<'_>; 2],
) {
    let [own, other] = [0, 1].map(|number| place.host.guests[number].clone());
    let begun = [before, b"begun"].concat();
    wait_until("its init writes", || {
        fs::read(own.join("d/init")).unwrap() == begun
    });
    assert_eq!(fs::read(other.join("d/init")).unwrap(), before);
    writes_are_its_own(place, broker, web);
    // The other one, which shares nothing of that file any more but with the store.
    let single = fs::read(own.join("d/single")).unwrap();
    mail("printf other >> /d/single");
    assert!(
        fs::read(other.join("d/single"))
            .unwrap()
            .ends_with(b"other")
    );
    assert_eq!(fs::read(own.join("d/single")).unwrap(), single);
    check_store(&place.host.store());
    let said = broker.said();
    assert_eq!(
        said.matches(" is served, in ").count(),
        2,
        "one for each container: {said}"
    );
}
