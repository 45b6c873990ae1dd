//! Clones: what is unified is shared, all else is a copy with everything that an inode carries.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::command;

use super::super::host::Host;
use super::{relative, root};

#[test]
fn inv3_a_clone_shares_what_is_unified_and_nothing_else() {
    let host = Host::new();
    let store = host.at("vdirs/.hash");
    fs::create_dir(&store).unwrap();
    let hash = host.at("conf/.defaults/apps/vunify/hash");
    fs::create_dir_all(&hash).unwrap();
    symlink(&store, hash.join("root")).unwrap();
    for name in ["web", "mail"] {
        host.ok(&[name, "build", "-m", "skeleton", &root(&host)]);
        fs::create_dir(host.at("conf").join(name).join("apps")).unwrap();
        fs::create_dir(host.at("conf").join(name).join("apps/vunify")).unwrap();
        let vdir = host.vdir(name);
        fs::write(vdir.join("usr/same"), "the same in both").unwrap();
        fs::write(vdir.join("usr/twice"), "twice in both").unwrap();
        fs::hard_link(vdir.join("usr/twice"), vdir.join("usr/again")).unwrap();
        fs::write(vdir.join("usr/own"), format!("of {name}")).unwrap();
        fs::hard_link(vdir.join("usr/own"), vdir.join("usr/own too")).unwrap();
        symlink("own", vdir.join("usr/link")).unwrap();
        command(Command::new("touch").args(["-hd", "2001-01-01"]).args([
            vdir.join("usr/same"),
            vdir.join("usr/twice"),
            vdir.join("usr/link"),
        ]));
        command(Command::new("mkfifo").arg(vdir.join("run/fifo")));
        xattr::set(vdir.join("etc"), "user.colour", b"green").unwrap();
        command(
            Command::new("touch")
                .args(["-d", "2002-02-02"])
                .arg(vdir.join("etc")),
        );
    }
    host.ok(&[
        "web",
        "hashify",
        "--protect",
        "none",
        "--state-dir",
        "/nowhere",
        "-n",
    ]);
    let state = host.at("index");
    let state = state.to_str().unwrap();
    let run = ["--protect", "none", "--state-dir", state];
    let mut both = vec!["web", "hashify"];
    both.extend(run);
    both.extend(["mail"]);
    host.ok(&both);
    host.ok(&[
        "copy",
        "build",
        "-m",
        "clone",
        &root(&host),
        "--",
        "--source",
        "web",
    ]);
    let (from, to) = (host.vdir("web"), host.vdir("copy"));
    assert_eq!(relative(&from), relative(&to));
    let inode = |vdir: &Path, name: &str| vdir.join(name).metadata().unwrap().ino();
    for name in ["usr/same", "usr/twice", "usr/again"] {
        assert_eq!(inode(&from, name), inode(&to, name), "{name} is unified");
    }
    assert_ne!(inode(&from, "usr/own"), inode(&to, "usr/own"));
    assert_eq!(inode(&to, "usr/own"), inode(&to, "usr/own too"));
    assert_ne!(inode(&to, "usr/same"), inode(&to, "usr/twice"));
    fs::write(to.join("usr/own"), "of the copy").unwrap();
    assert_eq!(fs::read(from.join("usr/own")).unwrap(), b"of web");
    let time = |vdir: &Path, name: &str| vdir.join(name).symlink_metadata().unwrap().mtime();
    for name in ["etc", "usr/link", "usr", ""] {
        assert_eq!(time(&from, name), time(&to, name), "{name}");
    }
    assert_eq!(
        xattr::get(to.join("etc"), "user.colour").unwrap().unwrap(),
        b"green"
    );
    // Whoever deletes the clone, or the source, takes nothing from the other.
    host.ok(&["web", "delete"]);
    assert_eq!(fs::read(to.join("usr/same")).unwrap(), b"the same in both");
}

#[test]
fn inv2_a_clone_keeps_inode_flags() {
    let host = Host::new();
    host.ok(&["web", "build", "-m", "skeleton", &root(&host)]);
    let from = host.vdir("web");
    fs::create_dir(from.join("usr/kept")).unwrap();
    for name in ["usr/fixed", "usr/log", "usr/plain", "usr/kept/file"] {
        fs::write(from.join(name), name).unwrap();
    }
    fs::hard_link(from.join("usr/fixed"), from.join("usr/too")).unwrap();
    let flagged = [
        ("usr/fixed", "+id"),
        ("usr/log", "+a"),
        ("usr/kept", "+iA"),
        ("", "+d"),
    ];
    for (name, flags) in flagged {
        command(Command::new("chattr").arg(flags).arg(from.join(name)));
    }
    let flags = |vdir: &Path, name: &str| {
        let shown = command(Command::new("lsattr").arg("-d").arg(vdir.join(name)));
        shown.split_whitespace().next().unwrap().to_owned()
    };
    let build = ["copy", "build", "-m", "clone", &root(&host)];
    let output = host.run(&[&build[..], &["--", "--source", "web"]].concat());
    let to = host.vdir("copy");
    let names = [
        "usr/fixed",
        "usr/log",
        "usr/plain",
        "usr/kept",
        "usr/kept/file",
        "",
    ];
    let both = names.map(|name| (flags(&from, name), flags(&to, name)));
    let is_linked = fs::metadata(to.join("usr/too")).is_ok_and(|found| found.nlink() == 2);
    // They could not be removed.
    for vdir in [&from, &to] {
        for (name, _) in flagged {
            command(Command::new("chattr").arg("-ia").arg(vdir.join(name)));
        }
    }
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    for (name, (from, to)) in names.iter().zip(both) {
        assert_eq!(from, to, "{name}");
    }
    assert!(is_linked);
}

#[test]
fn a_running_guest_is_not_cloned() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let line = host.refused(
        &["copy", "build", "-m", "clone", "--", "--source", "web"],
        1,
    );
    assert!(line.contains("web is running"), "{line}");
    assert!(!host.at("conf/copy").exists());
}
