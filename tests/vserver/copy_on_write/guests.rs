//! Guests with the same files, unified or not yet, and what becomes of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::command;
use vhashify_testkit::program::{output, vhashify};
use vhashify_testkit::snapshot::Snapshot;

use super::super::host::{Host, template};

/// Guests with files of their own that are alike in all, a store, and brokers; not unified yet.
pub fn host_of(names: &[&str]) -> Host {
    host_of_copies("alpha", names)
}

/// The same, of this template.
pub fn host_of_copies(of: &str, names: &[&str]) -> Host {
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

/// Gives all that lies below a place one mtime: files that are alike are to be the same.
pub fn date_all(place: &Path) {
    let arguments = ["-exec", "touch", "-d", "2020-01-01", "{}", "+"];
    command(Command::new("find").arg(place).args(arguments));
}

/// Puts a program of this machine, which is the guests' Debian, into a guest.
pub fn bring(program: &str, libraries: bool, vdir: &Path) {
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

/// Compiles a program of these tests into a guest, as `to`.
pub fn bring_c(host: &Host, name: &str, source: &str, to: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vserver")
        .join(source);
    let mut compile = Command::new("gcc");
    compile.args(["-O1", "-static", "-pthread", "-w", "-o"]);
    command(compile.arg(host.vdir(name).join(to)).arg(source));
}

/// Unifies them all.
pub fn unify(host: &Host) {
    let mut run = vhashify();
    run.args(["--all", "--protect", "none", "--config-dir"])
        .arg(host.at("conf"))
        .arg("--state-dir")
        .arg(host.at("index"));
    let output = output(&mut run);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The inode at a path of a guest.
pub fn ino(host: &Host, name: &str, path: &str) -> u64 {
    fs::metadata(host.vdir(name).join(path)).unwrap().ino()
}

/// Starts `web`, which shares everything with `mail`; gives how `mail` is.
pub fn start(host: &Host) -> Snapshot {
    unify(host);
    assert_eq!(
        ino(host, "web", "usr/bin/sed"),
        ino(host, "mail", "usr/bin/sed")
    );
    let mail = Snapshot::of(&host.vdir("mail"));
    host.ok(&["web", "start"]);
    mail
}

/// Panics unless `mail` is what it was.
pub fn assert_untouched(host: &Host, mail: &Snapshot, when: &str) {
    mail.assert_same(&Snapshot::of(&host.vdir("mail")), when);
}

/// Runs a script in `web`, each command of which must be well.
pub fn run(host: &Host, script: &str) {
    let (status, said) = host.script("web", &format!("set -e; {script}"));
    assert_eq!(status, 0, "{script}\n{said}");
}
