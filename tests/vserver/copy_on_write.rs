//! Guests that share all their files and write to them: each sees its own, and nobody else's changes.
//!
//! Protection is `none` here: what is shown is the broker's work. That the guard stops what outruns the
//! broker is shown in `tests/vm`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`programs`] | databases, git, dpkg |
//! | [`full_speed`] | runs beside a guest that writes |
//! | [`hostile`] | a guest that attacks the broker |
//! | [`ways`] | every way that leads to a shared file |
//! | [`guests`] | guests that share everything |

mod full_speed;
pub mod guests;
mod hostile;
mod programs;
mod ways;

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::host::wait_until;
use super::life::kill;
use guests::{assert_untouched, date_all, host_of, ino, run, start};

#[test]
fn what_changes_a_shared_file_in_place_changes_a_private_one() {
    let host = host_of(&["web", "mail"]);
    let mail = start(&host);
    let status = host.ok(&["web", "status"]);
    assert!(status.contains("copy on write: yes"), "{status}");
    for (path, script) in [
        ("usr/bin/basename", "echo written >> /usr/bin/basename"),
        ("usr/bin/expand", "cd /usr/bin; echo whole > ./expand"),
        (
            "usr/bin/dirname",
            "cd /usr/bin; dd if=/dev/zero of=../../usr/bin/dirname conv=notrunc bs=1 count=1",
        ),
        ("usr/bin/cut", "cp /usr/bin/tac /usr/bin/cut"),
        ("usr/bin/tr", "chmod 700 /usr/bin/tr"),
        ("usr/bin/uniq", "chown 7:8 /usr/bin/uniq"),
        ("usr/bin/tac", "touch -d 2001-01-01 /usr/bin/tac"),
        ("usr/bin/shuf", "truncate -s 5 /usr/bin/shuf"),
        (
            "usr/bin/sort",
            "touch -h -d 2001-01-01 /usr/bin/sort; exec 7</usr/bin/sort; chmod 711 /proc/self/fd/7",
        ),
        (
            "usr/bin/nl",
            "perl -e 'open(F, q(<), q(/usr/bin/nl)); chmod(0711, *F) or die; utime(5, 5, *F) or die'",
        ),
        (
            "usr/bin/od",
            "perl -e 'open(F, q(+<), q(/usr/bin/od)) or die; seek(F, 9, 0); print F q(x)'",
        ),
        (
            "usr/bin/wc",
            "setfattr -n user.a -v b /usr/bin/wc 2>/dev/null || perl -e 'my $r = syscall(188, my $p=q(/usr/bin/wc), my $n=q(user.a), my $v=q(b), 1, 0); die $! if $r'",
        ),
        (
            "usr/bin/tee",
            "ln /usr/bin/tee /usr/bin/tee2; echo >> /usr/bin/tee2; cmp /usr/bin/tee /usr/bin/tee2; test $(stat -c %h /usr/bin/tee) = 2",
        ),
        ("usr/bin/link", "sed -i 1s/^/x/ /usr/bin/link"),
        (
            "usr/bin/split",
            "install -m 700 /usr/bin/tac /usr/bin/split",
        ),
        (
            "usr/bin/csplit",
            "rsync --inplace --whole-file /usr/bin/tac /usr/bin/csplit",
        ),
        (
            "usr/bin/comm",
            "cd /; tar cf /tmp/t usr/bin/comm; echo x >> /usr/bin/comm; tar xf /tmp/t --overwrite; cmp /usr/bin/comm /usr/bin/comm",
        ),
        ("usr/bin/join", "chattr +d /usr/bin/join"),
    ] {
        assert_eq!(
            ino(&host, "web", path),
            ino(&host, "mail", path),
            "{path} is shared"
        );
        run(&host, script);
        assert_ne!(
            ino(&host, "web", path),
            ino(&host, "mail", path),
            "{path}: {script}"
        );
        assert_untouched(&host, &mail, script);
    }
    // Reading breaks nothing.
    run(
        &host,
        "cat /usr/bin/env > /dev/null; test -w /usr/bin/env; mv /usr/bin/id /usr/bin/id2",
    );
    assert_eq!(
        ino(&host, "web", "usr/bin/env"),
        ino(&host, "mail", "usr/bin/env")
    );
    assert_eq!(
        ino(&host, "web", "usr/bin/id2"),
        ino(&host, "mail", "usr/bin/id")
    );
    assert_untouched(&host, &mail, "reading and renaming");
}

#[test]
fn one_who_may_not_change_a_file_does_not_break_its_link() {
    let host = host_of(&["web", "mail"]);
    let mail = start(&host);
    let said = host.run(&[
        "web",
        "suexec",
        "www-data",
        "sh",
        "-c",
        "echo x >> /usr/bin/expand",
    ]);
    assert!(!said.status.success());
    assert_eq!(
        ino(&host, "web", "usr/bin/expand"),
        ino(&host, "mail", "usr/bin/expand")
    );
    assert_untouched(&host, &mail, "a refused write");
}

#[test]
fn inv2_copies_of_a_guest_with_users_of_its_own_keep_their_owners() {
    let host = host_of(&["web", "mail"]);
    host.set("web", "context", "1283\n");
    host.set("web", "spaces/user", "own\n");
    let mail = start(&host);
    // By a path, and by a descriptor for reading, which is replaced.
    run(
        &host,
        "echo x >> /usr/bin/expand; test $(stat -c %u /usr/bin/expand) = 0; \
         perl -e 'open(F, q(<), q(/usr/bin/tac)); chmod(0711, *F) or die; my @s = stat(F); \
           die $s[4] if $s[4]; my $l = readlink(q(/proc/self/fd/) . fileno(F)); \
           die $l if $l ne q(/usr/bin/tac)'",
    );
    for path in ["usr/bin/expand", "usr/bin/tac"] {
        assert_ne!(ino(&host, "web", path), ino(&host, "mail", path));
        let found = fs::metadata(host.vdir("web").join(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (0, 0), "{path}");
    }
    assert_untouched(&host, &mail, "with users of its own");
}

#[test]
fn inv3_link_groups_of_2_to_50_names_are_one_file_through_each_of_them() {
    let host = host_of(&["web", "mail"]);
    for name in ["web", "mail"] {
        for count in [2, 3, 10, 50] {
            let directory = host.vdir(name).join(format!("usr/local/{count}"));
            fs::create_dir_all(directory.join("deep")).unwrap();
            for through in 0..count.min(4) {
                let first = directory.join(format!("{through}-0"));
                fs::write(&first, format!("group of {count}, {through}\n")).unwrap();
                for number in 1..count {
                    let at = if number % 2 == 0 { "" } else { "deep/" };
                    let other = directory.join(format!("{at}{through}-{number}"));
                    fs::hard_link(&first, other).unwrap();
                }
            }
        }
    }
    for name in ["web", "mail"] {
        let srv = host.vdir(name).join("usr/local");
        date_all(&srv);
    }
    let mail = start(&host);
    assert_eq!(
        ino(&host, "web", "usr/local/50/0-0"),
        ino(&host, "mail", "usr/local/50/0-0")
    );
    run(
        &host,
        r#"cd /usr/local; for count in 2 3 10 50; do for through in 0 1 2 3; do
             [ $through -lt $count ] || continue
             last=$(find $count -name "$through-*" | sort | sed -n "$((through * count / 4 + 1))p")
             echo more >> $last
             for name in $(find $count -name "$through-*"); do cmp $name $last; done
             test $(stat -c %h $last) = $count
             test "$(tail -1 $last)" = more
           done; done"#,
    );
    assert_untouched(&host, &mail, "groups");
}

#[test]
fn inv4_a_lock_is_the_guests_own() {
    let host = host_of(&["web", "mail"]);
    let mail = start(&host);
    host.ok(&["mail", "start"]);
    // Both lock one shared file, each through a descriptor for reading.
    let hold = "flock -n /usr/bin/tac sh -c 'touch /tmp/held; while ! [ -e /tmp/over ]; do sleep 0.1; done'";
    let web = host
        .vserver(&["web", "exec", "sh", "-c", hold])
        .spawn()
        .unwrap();
    wait_until("web has its lock", || {
        host.vdir("web").join("tmp/held").exists()
    });
    assert_ne!(
        ino(&host, "web", "usr/bin/tac"),
        ino(&host, "mail", "usr/bin/tac")
    );
    let (status, said) = host.script("mail", "flock -n /usr/bin/tac true");
    assert_eq!(status, 0, "{said}");
    let (status, _) = host.script("web", "flock -n /usr/bin/tac true");
    assert_eq!(status, 1, "the lock holds inside");
    run(&host, "touch /tmp/over");
    assert!(web.wait_with_output().unwrap().status.success());
    // A lock through a descriptor that another process has, too, would not hold: it is refused.
    let (status, said) = host.script("web", "exec 9</usr/bin/cut; flock -n 9; echo $?");
    assert!(status == 0 && !said.trim_end().ends_with('0'), "{said}");
    // POSIX locks are the process's.
    run(
        &host,
        "perl -e 'use Fcntl; open(F, q(<), q(/usr/bin/tr)); \
           my $l = pack(q(s s l! l! i), F_RDLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $l) or die $!'",
    );
    assert_ne!(
        ino(&host, "web", "usr/bin/tr"),
        ino(&host, "mail", "usr/bin/tr")
    );
    host.ok(&["mail", "stop"]);
    assert_untouched(&host, &mail, "locks");
}

#[test]
fn a_guest_whose_broker_died_says_so_and_a_restart_mends_it() {
    let host = host_of(&["web", "mail"]);
    let mail = start(&host);
    kill(host.state("web")["monitor"]["pid"].as_i64().unwrap());
    let status = host.ok(&["web", "status"]);
    assert!(status.contains("its broker is dead"), "{status}");
    let line = host.refused(&["web", "exec", "true"], 1);
    assert!(line.contains("broker is dead"), "{line}");
    assert_untouched(&host, &mail, "without a broker");
    host.ok(&["web", "restart"]);
    run(&host, "echo x >> /usr/bin/expand");
    assert_untouched(&host, &mail, "after the restart");
}
