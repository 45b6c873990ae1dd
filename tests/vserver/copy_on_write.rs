//! Guests that share all their files and write to them: each sees its own, and nobody else's changes.
//!
//! Protection is `none` here: what is shown is the broker's work. That the guard stops what outruns the
//! broker is shown in `tests/vm`.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use vhashify::relink::temporary::{self, Purpose};
use vhashify_testkit::filesystem::command;
use vhashify_testkit::program::{output, vhashify};
use vhashify_testkit::snapshot::Snapshot;

use super::host::{Host, template, wait_until};
use super::life::kill;

/// Guests with files of their own that are alike in all, a store, and brokers; not unified yet.
fn host_of(names: &[&str]) -> Host {
    host_of_copies("alpha", names)
}

/// The same, of this template.
fn host_of_copies(of: &str, names: &[&str]) -> Host {
    let host = Host::new();
    fs::create_dir_all(host.at("hash")).unwrap();
    fs::create_dir_all(host.at("conf/.defaults/apps/vunify/hash")).unwrap();
    symlink(
        host.at("hash"),
        host.at("conf/.defaults/apps/vunify/hash/0"),
    )
    .unwrap();
    for name in names {
        let vdir = host.vdir(name);
        // Without what no test runs: it is most of it.
        let mut copy = Command::new("rsync");
        copy.args([
            "-aHAX",
            "--exclude=/usr/share/*",
            "--exclude=/var/cache/*",
            "--exclude=/var/lib/apt/*",
        ]);
        copy.args([
            "--exclude=/usr/lib/locale",
            "--exclude=gconv",
            "--exclude=/usr/lib/systemd",
        ]);
        copy.arg(template(of).join("")).arg(&vdir);
        command(&mut copy);
        for (program, libraries) in [("/usr/bin/rsync", true), ("/usr/bin/sqlite3", true)] {
            bring(program, libraries, &vdir);
        }
        fs::create_dir_all(vdir.join("usr/local")).unwrap();
        symlink(&vdir, {
            fs::create_dir_all(host.at("conf").join(name)).unwrap();
            host.at("conf").join(name).join("vdir")
        })
        .unwrap();
        host.set(name, "apps/init/style", "plain\n");
        host.set(name, "apps/init/cmd.start", "/bin/sleep\n1000\n");
        host.set(name, "apps/vunify/broker", "");
    }
    host
}

/// Puts a program of this machine, which is the guests' Debian, into a guest.
fn bring(program: &str, libraries: bool, vdir: &std::path::Path) {
    let below = |path: &str| vdir.join(path.trim_start_matches('/'));
    if libraries {
        let listed = command(Command::new("ldd").arg(program));
        for path in listed
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let to = below(path);
            if !to.exists() {
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(path, &to).unwrap();
            }
        }
    }
    command(
        Command::new("cp")
            .args(["-pL", program])
            .arg(below(program)),
    );
}

fn unify(host: &Host) {
    let mut run = vhashify();
    run.args(["--all", "--protect", "none", "--config-dir"])
        .arg(host.at("conf"))
        .arg("--state-dir")
        .arg(host.at("index"));
    let output = output(&mut run);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn ino(host: &Host, name: &str, path: &str) -> u64 {
    fs::metadata(host.vdir(name).join(path)).unwrap().ino()
}

/// Starts `web`, which shares everything with `mail`; gives how `mail` is.
fn start(host: &Host) -> Snapshot {
    unify(host);
    assert_eq!(
        ino(host, "web", "usr/bin/sed"),
        ino(host, "mail", "usr/bin/sed")
    );
    let mail = Snapshot::of(&host.vdir("mail"));
    host.ok(&["web", "start"]);
    mail
}

fn assert_untouched(host: &Host, mail: &Snapshot, when: &str) {
    mail.assert_same(&Snapshot::of(&host.vdir("mail")), when);
}

fn run(host: &Host, script: &str) {
    let (status, said) = host.script("web", &format!("set -e; {script}"));
    assert_eq!(status, 0, "{script}\n{said}");
}

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
        command(Command::new("find").arg(&srv).args([
            "-exec",
            "touch",
            "-d",
            "2020-01-01",
            "{}",
            "+",
        ]));
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

#[test]
fn a_database_in_each_of_two_guests_is_its_own() {
    let host = host_of(&["web", "mail"]);
    for name in ["web", "mail"] {
        let at = host.vdir(name).join("usr/local/db");
        command(Command::new("sqlite3").arg(&at).arg(
            "create table t(a integer primary key, b text); \
             with recursive n(i) as (select 1 union all select i+1 from n where i < 2000) \
             insert into t select i, hex(i*i) from n;",
        ));
        command(Command::new("touch").args(["-d", "2020-01-01"]).arg(&at));
    }
    unify(&host);
    assert_eq!(
        ino(&host, "web", "usr/local/db"),
        ino(&host, "mail", "usr/local/db")
    );
    host.ok(&["web", "start"]);
    host.ok(&["mail", "start"]);
    let work = |who: &str, count: u32| {
        let script = format!(
            "for i in $(seq {count}); do sqlite3 /usr/local/db \"insert into t(b) values('{who} $i'); \
             update t set b='{who}' where a=$i;\" || exit 1; done; sqlite3 /usr/local/db 'pragma integrity_check'"
        );
        host.vserver(&[who, "exec", "sh", "-c", &script])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let both = [work("web", 30), work("mail", 40)];
    for one in both {
        let output = one.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n");
    }
    for (who, count) in [("web", 30), ("mail", 40)] {
        let query = format!("select count(*) from t where b like '{who}%'");
        let asked = host.ok(&[who, "exec", "sqlite3", "/usr/local/db", &query]);
        assert_eq!(asked.trim(), (2 * count).to_string(), "{who}");
        let all = host.ok(&[
            who,
            "exec",
            "sqlite3",
            "/usr/local/db",
            "select count(*) from t",
        ]);
        assert_eq!(all.trim(), (2000 + count).to_string(), "{who}");
    }
}

#[test]
fn git_python_and_an_editor_work_on_shared_files_as_on_their_own() {
    let host = host_of_copies("beta", &["web", "mail"]);
    let mut which = Command::new("sh");
    let git = command(which.args(["-c", "command -v git"]));
    let [web, mail] = ["web", "mail"].map(|name| host.vdir(name));
    for vdir in [&web, &mail] {
        bring("/usr/bin/ed", true, vdir);
        fs::create_dir_all(vdir.join("usr/local/bin")).unwrap();
        bring(git.trim_end(), true, vdir);
    }
    // A repository with its history, and a copy of it with all of its times.
    let history = "set -e; mkdir \"$1\"; cd \"$1\"; git init -q .; git config user.name a; git config user.email a@b; \
        for i in $(seq 20); do for f in $(seq 9); do echo $f $i >> file$f; done; git add .; git commit -qm $i; done";
    let at = web.join("usr/local/repository");
    command(Command::new("sh").args(["-c", history, "sh"]).arg(&at));
    fs::write(web.join("usr/local/note"), "first\nsecond\n").unwrap();
    let both = ["usr/local/repository", "usr/local/note"].map(|path| web.join(path));
    let mut copy = Command::new("cp");
    command(copy.arg("-a").args(both).arg(mail.join("usr/local")));
    let before = start(&host);
    let shared = |path: &str| ino(&host, "web", path) == ino(&host, "mail", path);
    assert!(shared("usr/local/repository/file1") && shared("usr/local/repository/.git/index"));

    let git = format!(
        "export HOME=/root; cd /usr/local/repository; git() {{ {} \"$@\"; }}; git status --porcelain > /tmp/s; test ! -s /tmp/s;",
        git.trim_end()
    );
    run(
        &host,
        &format!(
            "{git} echo more >> file1; git commit -qam more; git checkout -q HEAD~9; git checkout -q -"
        ),
    );
    assert_untouched(&host, &before, "git commit, git checkout");
    run(
        &host,
        &format!(
            "{git} git repack -qadf; git prune; git fsck --strict; test $(git log --oneline | wc -l) = 21"
        ),
    );
    assert_untouched(&host, &before, "git repack, git prune");

    assert!(shared("usr/lib/python3.11/email/message.py"));
    run(
        &host,
        "python3 -m compileall -q -f /usr/lib/python3.11/email; python3 -c 'import email.message; email.message.Message()'",
    );
    assert_untouched(&host, &before, "python3 -m compileall");

    assert!(shared("usr/local/note"));
    run(
        &host,
        "printf '1s/^/x/\\nw\\nq\\n' | ed -s /usr/local/note; test \"$(head -n1 /usr/local/note)\" = xfirst",
    );
    assert!(!shared("usr/local/note"));
    assert_untouched(&host, &before, "ed");
}

/// Makes version `version` of a package of many files, one of which is `also`, in `vdir`.
fn make_package(vdir: &std::path::Path, version: u32, also: Option<&str>) {
    let build = "set -e; cd \"$1/tmp\"; rm -rf p; mkdir -p p/DEBIAN p/usr/local/trial; \
        printf 'Package: trial\\nVersion: %s\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: x\\n' $2 >p/DEBIAN/control; \
        for i in $(seq 200); do echo \"file $i of version $2\" >p/usr/local/trial/$i; done; \
        ln p/usr/local/trial/1 p/usr/local/trial/one; \
        if [ \"$3\" ]; then mkdir -p \"p/${3%/*}\"; echo >\"p/$3\"; fi; \
        dpkg-deb --root-owner-group -b p trial-$2.deb >/dev/null; rm -r p";
    let mut make = Command::new("sh");
    make.env("SOURCE_DATE_EPOCH", "1600000000");
    make.args(["-c", build, "sh"]).arg(vdir);
    make.args([&version.to_string(), also.unwrap_or_default()]);
    command(&mut make);
}

#[test]
fn dpkg_upgrades_a_package_of_shared_files_and_takes_a_failed_upgrade_back() {
    let host = host_of(&["web", "mail"]);
    let [web, mail] = ["web", "mail"].map(|name| host.vdir(name));
    make_package(&web, 1, None);
    make_package(&web, 2, None);
    // That one is coreutils', and comes last.
    make_package(&web, 3, Some("usr/sbin/chroot"));
    let mut install = Command::new("chroot");
    command(install.arg(&web).args(["dpkg", "-i", "/tmp/trial-1.deb"]));
    let mut copy = Command::new("cp");
    let trial = "usr/local/trial";
    command(copy.arg("-a").arg(web.join(trial)).arg(mail.join(trial)));
    let before = start(&host);
    let count_shared = || {
        let files = (1..=200).map(|number| format!("{trial}/{number}"));
        files
            .filter(|path| ino(&host, "web", path) == ino(&host, "mail", path))
            .count()
    };
    assert_eq!(count_shared(), 200);

    run(
        &host,
        "! dpkg -i /tmp/trial-3.deb >/tmp/said 2>&1; grep -q 'trying to overwrite' /tmp/said; \
         dpkg --verify trial; grep -q 'version 1' /usr/local/trial/200; ! ls /usr/local/trial | grep dpkg",
    );
    assert_untouched(&host, &before, "a failed upgrade");
    // The backups were links and no copies.
    assert_eq!(count_shared(), 200);

    run(
        &host,
        "dpkg -i /tmp/trial-2.deb >/dev/null; dpkg --verify trial; \
         grep -q 'version 2' /usr/local/trial/200; \
         test /usr/local/trial/1 -ef /usr/local/trial/one; ! ls /usr/local/trial | grep dpkg",
    );
    assert_untouched(&host, &before, "an upgrade");
    assert_eq!(count_shared(), 0);
}

/// Compiles the hostile program into a guest.
fn bring_hostile(host: &Host, name: &str) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vserver/hostile.c");
    let program = host.vdir(name).join("usr/local/hostile");
    command(
        Command::new("gcc")
            .args(["-O1", "-static", "-pthread", "-w", "-o"])
            .arg(program)
            .arg(source),
    );
}

#[test]
fn a_hostile_guest_does_not_lead_the_broker_to_other_guests_files() {
    let host = host_of(&["web", "mail"]);
    bring_hostile(&host, "web");
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
    bring_hostile(&host, "web");
    let mail = start(&host);
    run(
        &host,
        "/usr/local/hostile 0 thirty-two /usr/bin/base32; tail -n 1 /usr/bin/base32 | grep -qx '.*32'",
    );
    assert_untouched(&host, &mail, "32 bits");
}

#[test]
fn inv5_no_write_is_lost_while_runs_unify_at_full_speed() {
    let host = host_of(&["web", "mail"]);
    for name in ["web", "mail"] {
        let place = host.vdir(name).join("usr/local/w");
        fs::create_dir_all(&place).unwrap();
        for number in 0..30 {
            fs::write(
                place.join(format!("f{number}")),
                format!("{number}\n").repeat(3000),
            )
            .unwrap();
            if number % 3 == 0 {
                fs::hard_link(
                    place.join(format!("f{number}")),
                    place.join(format!("l{number}")),
                )
                .unwrap();
            }
        }
        command(Command::new("find").arg(&place).args([
            "-exec",
            "touch",
            "-d",
            "2020-01-01",
            "{}",
            "+",
        ]));
    }
    let mail = start(&host);
    let script = r#"
        my $until = time + 120; my ($writes, $shared) = (0, 0); chdir "/usr/local/w";
        while (time < $until and not -e "../enough") { for my $n (0..29) {
            my $name = $n % 3 == 0 && rand() < 0.5 ? "l$n" : "f$n";
            my $seen = $n % 3 == 0 && rand() < 0.5 ? "l$n" : "f$n";
            my $was = "$n\n" x 3000; my $new = "w" . $was; substr($new, rand(3000), 1) = "x";
            $shared++ if (stat $name)[3] > 2;
            open(F, "+<", $name) or die "$name: $!"; print F $new; close F or die;
            open(F, "<", $seen); local $/; my $read = <F>; close F;
            $read eq $new or die "$name was lost in $seen";
            open(F, ">", $name) or die "$name: $!"; print F $was; close F or die;
            utime(1577833200, 1577833200, $name) or die;
            open(F, "<", $seen); $read = <F>; close F;
            $read eq $was or die "$name was not led back in $seen"; $writes++;
        } }
        print "$writes $shared\n";"#;
    host.ok(&["web", "exec", "true"]);
    let mut writer = host.vserver(&["web", "exec", "perl", "-e", script]);
    let mut writer = writer
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut runs, begun) = (0, Instant::now());
    while writer.try_wait().unwrap().is_none() {
        // On a busy host a few runs take longer.
        if runs > 3 && begun.elapsed() > Duration::from_secs(8) {
            fs::write(host.vdir("web").join("usr/local/enough"), "").unwrap();
        }
        let mut run = vhashify();
        run.args(["--all", "--protect", "none", "--config-dir"])
            .arg(host.at("conf"))
            .arg("--state-dir")
            .arg(host.at("index"));
        drop(output(&mut run));
        runs += 1;
    }
    let said = writer.wait_with_output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert!(said.status.success(), "after {runs} runs: {err}");
    let numbers: Vec<u64> = out
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    assert!(
        runs > 3 && numbers[1] > 20,
        "{runs} runs, writes and breaks: {out}"
    );
    assert_untouched(&host, &mail, "full speed");
    unify(&host);
    assert_untouched(&host, &mail, "a run afterwards");
}
