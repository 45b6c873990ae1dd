//! Programs that write to shared files as they would to their own: `SQLite`, git, python, an editor, dpkg.

use std::fs;
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::command;

use super::guests::{assert_untouched, bring, host_of, host_of_copies, ino, run, start, unify};

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
fn make_package(vdir: &Path, version: u32, also: Option<&str>) {
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
