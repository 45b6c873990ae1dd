//! Two and three guests that share files under the guard.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vhashify_testkit::adversary::Adversary;
use vhashify_testkit::built;
use vhashify_testkit::disturb::with_moves;
use vhashify_testkit::filesystem::{Filesystem, Kind, command, on_each};
use vhashify_testkit::held_open::{APPENDED, HeldWriter};
use vhashify_testkit::moments::{assert_same, equal_guests, snapshots};
use vhashify_testkit::program::{Host, output, refused, vhashify};
use vhashify_testkit::snapshot::{Snapshot, check_store};
use vhashify_testkit::tree::{Content, PLAIN, make_file};

use super::{ADVERSARY, Guard, Running, Who, child, guard};

/// A host whose guests share all that they have. The guard goes when the second value does.
fn unified(place: &Path, guests: usize) -> (Host, Guard) {
    let host = Host::new(place, guests).protected_by("lsm");
    equal_guests(&host, 12);
    let loaded = Guard;
    let report = host.run(&[]);
    assert_eq!(report["protection"][0], "lsm");
    assert!(report["files_unified"].as_u64().unwrap() > 12, "{report}");
    (host, loaded)
}

/// The adversary makes no command fail either: see `inode_permission` in `guard.bpf.c`.
#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn inv4_guests_stay_apart_and_can_be_served_while_one_of_them_attacks() {
    on_each(|filesystem| {
        let (host, _loaded) = unified(filesystem.path(), 3);
        let before = snapshots(&host);
        let this = std::env::current_exe().unwrap();
        let adversary = Adversary::start(&this, &ADVERSARY, &host.guests[0]);
        for round in 0..3 {
            host.deunify(1, &[]);
            assert_same(&before, &host, &format!("after deunify, round {round}"));
            host.call(["verify", "--deep"]);
            let report = host.run(&["--refresh"]);
            assert!(report["files_unified"].as_u64().unwrap() > 12, "{report}");
            assert_same(&before, &host, &format!("after a run, round {round}"));
        }
        let refused = adversary.stop();
        assert!(refused > 100, "{refused}");
        host.call(["gc"]);
        check_store(&host.store());
    });
}

/// An inode takes some ten thousand links at most, and each guest's package manager needs one of them for a moment
/// for whatever it replaces.
#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn inv4_no_guest_uses_up_the_links_of_an_object() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 3).protected_by("lsm");
    for guest in &host.guests {
        make_file(
            &guest.join("file"),
            Content {
                size: 5000,
                variant: 1,
            },
            PLAIN,
        );
    }
    let _loaded = Guard;
    assert_eq!(host.run(&[])["files_unified"], 2);
    for guest in &host.guests[..2] {
        let said = command(&mut child(Who::Guest, "link", guest));
        assert!(said.contains("\nmade 1000\n"), "{said}");
    }
    // Runs go on to share it with whoever is new.
    host.deunify(2, &[]);
    assert_eq!(host.run(&["--refresh"])["files_unified"], 1);
    fs::hard_link(host.guests[2].join("file"), host.guests[2].join("name")).unwrap();
}

/// While somebody counts as a writer of a program, nobody can run it.
#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn inv4_a_guest_that_tries_to_write_to_a_program_keeps_no_other_guest_from_running_it() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = Host::new(filesystem.path(), 2).protected_by("lsm");
    for guest in &host.guests {
        command(Command::new("cp").args(["-a", "/bin/true"]).arg(guest));
    }
    let [mine, others] = [0, 1].map(|number: usize| host.guests[number].join("true"));
    let _loaded = Guard;
    assert_eq!(host.run(&[])["files_unified"], 1);
    let is_busy = || {
        let ran = Command::new(&others).status();
        ran.is_err_and(|error| error.raw_os_error() == Some(libc::ETXTBSY))
    };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let refused = fs::OpenOptions::new().write(true).open(&mine).unwrap_err();
                    // The second where it counts as a writer before the guard is asked.
                    let errors = [Some(libc::EPERM), Some(libc::ETXTBSY)];
                    assert!(errors.contains(&refused.raw_os_error()), "{refused}");
                }
            });
        }
        for _ in 0..500 {
            assert!(!is_busy());
        }
        // Without the hook that comes before, the same attempts are refused, too late. (Not in all
        // kernels: 6.11 and 6.12.0 run programs that are being written to.)
        let own = filesystem.path().join("own");
        fs::copy("/bin/true", &own).unwrap();
        let _writer = fs::OpenOptions::new().append(true).open(&own).unwrap();
        if Command::new(&own).status().is_ok() {
            return;
        }
        fs::remove_file("/sys/fs/bpf/vhashify/hook-inode_permission").unwrap();
        let begun = Instant::now();
        while !is_busy() {
            assert!(begun.elapsed() < Duration::from_mins(2), "never busy");
        }
    });
}

/// Also when the test panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The guard let it pass while the file was its guest's alone.
#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn inv4_a_process_that_is_held_while_it_opens_a_file_that_becomes_shared_writes_to_its_own() {
    on_each(|filesystem| {
        for number in 0..2 {
            let place = filesystem.path().join(format!("writer{number}"));
            let host = Host::new(&place, 2).protected_by("lsm");
            let content = Content {
                size: 9,
                variant: 0,
            };
            let files: Vec<PathBuf> = host.guests.iter().map(|guest| guest.join("file")).collect();
            for file in &files {
                make_file(file, content, PLAIN);
            }
            let _loaded = Guard;
            let writer = RefCell::new(None);
            let start = || *writer.borrow_mut() = Some(HeldWriter::start(&files[number]));
            // Its name in the store comes before the mark.
            let before = "object-link:1:stop-before";
            with_moves(host.run_command(&[]), before, &[&start]);
            let written = writer.take().unwrap().let_go();
            assert!(written.status.success(), "{written:?}");
            let appended = [&content.bytes(), APPENDED].concat();
            assert_eq!(fs::read(&files[number]).unwrap(), appended);
            assert_eq!(fs::read(&files[1 - number]).unwrap(), content.bytes());
        }
    });
}

#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn the_guard_stays_while_a_guest_with_shared_files_runs_unless_forced() {
    on_each(|filesystem| {
        let (host, _loaded) = unified(filesystem.path(), 2);
        let guest = Running(
            child(Who::Host, "stay", &host.guests[1])
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        );
        while fs::read_link(format!("/proc/{}/root", guest.0.id())).unwrap() == Path::new("/") {
            std::thread::sleep(Duration::from_millis(10));
        }
        let line = refused(vhashify().args(["guard", "unload"]), 3);
        assert!(line.contains("stop the guests"), "{line}");
        let id = format!("process {} ", guest.0.id());
        assert!(line.contains(&id), "{line}");
        let shared = host.guests[1].join("d1/file1");
        let write = || fs::OpenOptions::new().append(true).open(&shared);
        assert_eq!(write().unwrap_err().raw_os_error(), Some(libc::EPERM));

        let forced = guard(&["unload", "--force"], &host.store());
        assert_eq!(forced["loaded"], false);
        write().unwrap();
        drop(guest);
        host.run(&[]);
        assert_eq!(guard(&["unload"], &host.store())["loaded"], false);
    });
}

/// A guest that is being started has no process yet by which it could be found. It is found by the device of its vdir,
/// which on Btrfs is another than the one that `stat` tells.
#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn the_guard_stays_while_vserver_starts_a_guest() {
    let filesystem = Filesystem::new(Kind::Btrfs);
    let (host, _loaded) = unified(filesystem.path(), 2);
    let states = filesystem.path().join("vservers");
    fs::create_dir_all(states.join("web")).unwrap();
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after) = stat.rsplit_once(')').unwrap();
    let began = after.split_whitespace().nth(19).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let guest = format!(
        r#"{{"context":1300,"init":null,"monitor":{{"pid":{},"began":{began}}},"vdir":{:?},
            "since":0,"boot":"{}","config_dir":"/"}}"#,
        std::process::id(),
        host.guests[0],
        boot.trim()
    );
    fs::write(states.join("web/guest.json"), guest).unwrap();
    let states = states.to_str().unwrap();
    let unload = ["guard", "unload", "--vserver-state-dir", states];
    let line = refused(vhashify().args(unload), 3);
    assert!(line.contains("the guest web runs"), "{line}");
    fs::remove_file(format!("{states}/web/guest.json")).unwrap();
    assert_eq!(guard(&unload[1..], &host.store())["loaded"], false);
}

/// What a guest needs to run dpkg.
const PACKAGES: &str = "base-files base-passwd coreutils dash diffutils dpkg grep init-system-helpers libc-bin \
                        libacl1 libattr1 libaudit1 libblkid1 libbz2-1.0 libc6 libcap-ng0 libgcc-s1 \
                        liblzma5 libmd0 libmount1 libpcre2-8-0 libselinux1 libsmartcols1 libsystemd0 \
                        libudev1 libuuid1 libzstd1 mount sed tar util-linux zlib1g";

/// Makes a guest of the packages of this system, and `/newer.deb`, which is the package `mount` again
/// with another version and one other file. It has setuid programs.
const MAKE: &str = r#"
    guest=$1
    shift
    cd /
    # Where the links at the root lead.
    mkdir -p "$guest"/usr/{bin,sbin,lib,lib64}
    cp -a --parents bin lib lib64 sbin etc var/lib/dpkg "$guest"
    for package; do
        dpkg-query -W "$package" >/dev/null 2>&1 && dpkg -L "$package"
    done | sort -u | while read -r path; do
        [ ! -f "$path" ] || echo "$path"
    done | grep -v '^/usr/share/\(doc\|info\|locale\|man\)/' | tar -C / -cT - | tar -C "$guest" -xp
    mkdir -p "$guest/tmp" "$guest/var/log" "$guest/dev"

    package=$(mktemp -d)
    mkdir "$package/DEBIAN"
    dpkg-query -s mount | sed '/^Status:/d; s/^Version: .*/&+newer/' >"$package/DEBIAN/control"
    dpkg -L mount | while read -r path; do
        [ ! -f "$path" ] || cp -a --parents ".$path" "$package"
    done
    mkdir -p "$package/usr/share/newer"
    echo newer >"$package/usr/share/newer/file"
    (cd "$package" && find . -path ./DEBIAN -prune -o -type f -print0 | sed -z 's|^\./||' |
        xargs -0 md5sum >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Znone -b "$package" "$guest/newer.deb"
"#;

/// In a guest's context, as root of the guest.
fn in_guest(root: &Path, arguments: &[&str]) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    unshare.arg("--root").arg(root).args(["--wd", "/"]);
    unshare.args(arguments);
    unshare
}

#[test]
#[ignore = "needs the guard: run in machines by make test-vm"]
fn inv4_dpkg_upgrades_a_package_of_a_unified_guest_and_no_other_feels_it() {
    // On the machine's large disk.
    let place = tempfile::tempdir_in(built::scratch()).unwrap();
    let host = Host::new(place.path(), 2).protected_by("lsm");
    let [one, other]: [PathBuf; 2] = host.guests.clone().try_into().unwrap();
    command(
        Command::new("bash")
            .args(["-euc", MAKE, "bash"])
            .arg(&one)
            .args(PACKAGES.split_whitespace()),
    );
    command(Command::new("cp").arg("-aT").args([&one, &other]));
    let before = Snapshot::of(&other);
    let _loaded = Guard;
    let report = host.run(&[]);
    assert!(report["files_unified"].as_u64().unwrap() > 300, "{report}");
    assert!(report["skipped"]["setuid-setgid-or-sticky"].as_u64() > Some(3));
    before.assert_same(&Snapshot::of(&other), "after a run");

    // Nothing of the guest can be written to, and its package can be replaced.
    let mut write = in_guest(&one, &["/bin/sh", "-c", "echo more >>/bin/findmnt"]);
    assert!(!output(&mut write).status.success());
    let upgrade = ["/usr/bin/dpkg", "--install", "/newer.deb"];
    command(&mut in_guest(&one, &upgrade));
    assert_eq!(
        command(&mut in_guest(&one, &["/usr/bin/dpkg", "--verify", "mount"])),
        ""
    );
    let version = ["/usr/bin/dpkg-query", "-W", "mount"];
    let version = command(&mut in_guest(&one, &version));
    assert!(version.ends_with("+newer\n"), "{version}");
    assert_eq!(
        fs::read(one.join("usr/share/newer/file")).unwrap(),
        b"newer\n"
    );
    before.assert_same(&Snapshot::of(&other), "after the other's upgrade");

    // What the package brought again is shared again.
    let upgraded = Snapshot::of(&one);
    let report = host.run(&[]);
    assert!(report["files_unified"].as_u64() > Some(0), "{report}");
    host.call(["verify", "--deep"]);
    before.assert_same(&Snapshot::of(&other), "after another run");
    upgraded.assert_same(&Snapshot::of(&one), "after another run");
}
