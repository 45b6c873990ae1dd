//! Guests are made by each method, whole or not at all, and deleted.

mod clone;
mod left_out;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vhashify_testkit::filesystem::command;

use super::host::{Host, listing, template, wait_until};

/// The options that put a guest's vdir where the other vdirs of the test are.
fn root(host: &Host) -> String {
    format!("--rootdir={}", host.at("vdirs").display())
}

/// Names below a directory, in place of whole paths.
fn relative(top: &Path) -> Vec<(PathBuf, (u32, u64, u32, u32))> {
    let found = listing(top).into_iter();
    found
        .map(|(path, of)| (path.strip_prefix(top).unwrap().to_path_buf(), of))
        .collect()
}

/// Nothing of a failed build is there, hidden or not.
fn assert_nothing_is_built(host: &Host) {
    for place in ["conf", "vdirs"] {
        let left: Vec<_> = fs::read_dir(host.at(place)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_skeleton_has_what_a_guest_must_have_and_the_options_are_written() {
    let host = Host::new();
    let said = host.ok(&[
        "web",
        "build",
        "-m",
        "skeleton",
        &root(&host),
        "--hostname=www.example.org",
        "--context=1240",
        "--interface=lan=eth0:10.213.9.2/24",
        "--interface=fd00::2/64",
        "--flags=lock,nproc",
        "--initstyle=plain",
    ]);
    assert_eq!(said, "web is built\n");
    for (setting, value) in [
        ("uts/nodename", "www.example.org\n"),
        ("context", "1240\n"),
        ("interfaces/lan/ip", "10.213.9.2\n"),
        ("interfaces/lan/prefix", "24\n"),
        ("interfaces/lan/dev", "eth0\n"),
        ("interfaces/1/ip", "fd00::2\n"),
        ("flags", "lock\nnproc\n"),
        ("apps/init/style", "plain\n"),
        ("name", "web\n"),
    ] {
        let path = host.at("conf/web").join(setting);
        assert_eq!(fs::read_to_string(path).unwrap(), value, "{setting}");
    }
    assert_eq!(
        fs::read_link(host.at("conf/web/vdir")).unwrap(),
        host.vdir("web")
    );
    let mode = |below: &str| host.vdir("web").join(below).metadata().unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("tmp"), mode("root"), mode("")),
        (0o1777, 0o700, 0o755)
    );
    let line = host.refused(&["web", "build", "-m", "skeleton", &root(&host)], 1);
    assert!(line.contains("is there already"), "{line}");
    fs::write(host.vdir("web").join("kept"), "").unwrap();
    host.ok(&["web", "build", "--force", "-m", "skeleton", &root(&host)]);
    assert!(!host.vdir("web").join("kept").exists());
    let hidden = fs::read_dir(host.at("vdirs")).unwrap().flatten();
    assert_eq!(
        hidden
            .filter(|entry| entry.path().join("kept").exists())
            .count(),
        1
    );
}

#[test]
fn a_template_is_unpacked_as_it_was_packed_and_runs() {
    let host = Host::new();
    // Not the one that tests make links of, whose files change while they are read.
    let pristine = vhashify_testkit::guests::pristine().join("alpha");
    for (archive, option) in [("plain.tar", "-c"), ("zipped.tar.gz", "-cz")] {
        let archive = host.at(archive);
        let what = if option == "-c" { "." } else { "./etc" };
        let mut tar = Command::new("tar");
        tar.args([option, "--xattrs", "--xattrs-include=*", "-f"])
            .arg(&archive);
        command(tar.arg("-C").arg(&pristine).arg(what));
    }
    let (plain, zipped) = (host.at("plain.tar"), host.at("zipped.tar.gz"));
    let archives = [plain.to_str().unwrap(), "-t", zipped.to_str().unwrap()];
    let root = root(&host);
    let mut build = vec![
        "web",
        "build",
        "-m",
        "template",
        &root,
        "--initstyle=plain",
        "--",
        "-t",
    ];
    build.extend(archives);
    host.ok(&build);
    let mut packed = relative(&pristine);
    // Its device nodes are left out.
    packed
        .retain(|(_, (mode, ..))| ![libc::S_IFCHR, libc::S_IFBLK].contains(&(mode & libc::S_IFMT)));
    assert_eq!(relative(&host.vdir("web")), packed);
    let ping = host.vdir("web").join("usr/bin/ping");
    let capability = xattr::get(ping, "security.capability").unwrap();
    assert!(capability.is_some(), "a capability was lost");
    host.set("web", "apps/init/cmd.start", "/bin/sleep\n1000\n");
    host.ok(&["web", "start"]);
    assert_eq!(host.ok(&["web", "exec", "hostname"]), "web\n");
}

#[test]
fn rsync_copies_a_directory_whole() {
    let host = Host::new();
    let source = host.at("source");
    command(
        Command::new("cp")
            .arg("-a")
            .arg(template("alpha").join("etc"))
            .arg(&source),
    );
    fs::hard_link(source.join("passwd"), source.join("passwd.too")).unwrap();
    let from = source.to_str().unwrap();
    host.ok(&[
        "web",
        "build",
        "-m",
        "rsync",
        &root(&host),
        "--",
        "--source",
        from,
    ]);
    assert_eq!(relative(&host.vdir("web")), relative(&source));
    let inode = |name: &str| host.vdir("web").join(name).metadata().unwrap().ino();
    assert_eq!(inode("passwd"), inode("passwd.too"));
}

#[test]
fn debootstrap_builds_a_guest_that_starts() {
    let host = Host::new();
    let cache = vhashify_testkit::guests::pristine().join(".debs");
    let release = fs::read_to_string(template("alpha").join("etc/os-release")).unwrap();
    let suite = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let mirror = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/mirror.sh"))
        .arg(suite.unwrap())
        .output()
        .unwrap();
    let mirror = String::from_utf8(mirror.stdout).unwrap();
    let cache = format!("--cache-dir={}", cache.display());
    let root = root(&host);
    let mut build = vec![
        "web",
        "build",
        "-m",
        "debootstrap",
        &root,
        "--initstyle",
        "plain",
    ];
    build.extend(["--", "-d", suite.unwrap()]);
    if !mirror.trim().is_empty() {
        build.extend(["-m", mirror.trim()]);
    }
    build.extend(["--", "--variant=minbase", &cache]);
    host.ok(&build);
    host.set("web", "apps/init/cmd.start", "/bin/sleep\n1000\n");
    host.ok(&["web", "start"]);
    assert_eq!(host.ok(&["web", "exec", "dpkg", "--audit"]), "");
}

#[test]
fn a_build_that_fails_leaves_nothing_unless_it_is_to_be_kept() {
    let host = Host::new();
    let bad = host.at("bad.tar");
    fs::write(&bad, "this is no archive, however long one looks at it").unwrap();
    let root = root(&host);
    let bad = bad.to_str().unwrap();
    let line = host.refused(
        &["web", "build", "-m", "template", &root, "--", "-t", bad],
        1,
    );
    assert!(line.contains("tar failed"), "{line}");
    assert_nothing_is_built(&host);
    let interface = [
        "web",
        "build",
        "-m",
        "skeleton",
        &root,
        "--interface=everywhere",
    ];
    let line = host.refused(&interface, 1);
    assert!(line.contains("everywhere"), "{line}");
    assert_nothing_is_built(&host);
    let none = [
        "web",
        "build",
        "-m",
        "rsync",
        &root,
        "--",
        "--source",
        "/no/such/place",
    ];
    let line = host.refused(&none, 1);
    assert!(line.contains("/no/such/place"), "{line}");
    assert_nothing_is_built(&host);
    let kept = [
        "web", "build", "--keep", "-m", "template", &root, "--", "-t", bad,
    ];
    host.refused(&kept, 1);
    assert!(host.at("vdirs/.web.building").exists());
    host.ok(&["web", "build", "-m", "skeleton", &root]);
    assert!(!host.at("vdirs/.web.building").exists());
}

#[test]
fn a_build_that_is_interrupted_leaves_nothing_and_one_that_is_killed_is_made_good() {
    let host = Host::new();
    // tar waits for somebody who writes into it.
    let fifo = host.at("fifo.tar");
    command(Command::new("mkfifo").arg(&fifo));
    let root = root(&host);
    let build = [
        "web",
        "build",
        "-m",
        "template",
        &root,
        "--",
        "-t",
        fifo.to_str().unwrap(),
    ];
    for signal in ["TERM", "INT", "KILL"] {
        let mut child = host.vserver(&build).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("it has begun", || host.at("vdirs/.web.building").exists());
        std::thread::sleep(std::time::Duration::from_millis(300));
        let pid = child.id().to_string();
        command(Command::new("kill").args(["-s", signal, &pid]));
        let status = child.wait().unwrap();
        if signal == "KILL" {
            assert!(host.at("vdirs/.web.building").exists());
            assert!(!host.at("conf/web").exists());
            // The archive's reader goes when somebody opens and closes it.
            drop(fs::OpenOptions::new().write(true).open(&fifo));
        } else {
            assert_eq!(status.code(), Some(1));
            assert_nothing_is_built(&host);
        }
    }
    host.ok(&["web", "build", "-m", "skeleton", &root]);
    assert!(!host.at("vdirs/.web.building").exists());
}

#[test]
fn delete_removes_a_guest_that_is_at_rest_and_stands_alone() {
    let host = Host::new();
    host.sleeper("web");
    host.ok(&["web", "start"]);
    let line = host.refused(&["web", "delete"], 1);
    assert!(line.contains("running"), "{line}");
    host.ok(&["web", "stop"]);
    let store = host.vdir("web").join("srv/store");
    fs::create_dir(&store).unwrap();
    let hash = host.at("conf/.defaults/apps/vunify/hash");
    fs::create_dir_all(&hash).unwrap();
    symlink(&store, hash.join("root")).unwrap();
    let line = host.refused(&["web", "delete"], 1);
    assert!(line.contains("srv/store lies in it"), "{line}");
    fs::remove_file(hash.join("root")).unwrap();
    let mounted = host.vdir("web").join("mnt");
    command(
        Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(&mounted),
    );
    let line = host.run(&["web", "delete"]);
    command(Command::new("umount").arg(&mounted));
    let line = String::from_utf8(line.stderr).unwrap();
    assert!(line.contains("mounted on"), "{line}");
    host.ok(&["web", "delete"]);
    for gone in ["conf/web", "vdirs/web", "vdirs/.web.deleting", "state/web"] {
        assert!(!host.at(gone).exists(), "{gone}");
    }
    let line = host.refused(&["web", "start"], 2);
    assert!(line.contains("there is no guest web"), "{line}");
}

#[test]
fn a_link_of_one_archive_leads_no_other_out_of_the_guest() {
    let host = Host::new();
    let outside = host.at("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "of the host").unwrap();
    let pack = |name: &str, make: &dyn Fn(&Path)| {
        let tree = host.at(&format!("tree-{name}"));
        fs::create_dir(&tree).unwrap();
        make(&tree);
        let archive = host.at(&format!("{name}.tar"));
        let mut tar = Command::new("tar");
        command(tar.arg("-C").arg(&tree).arg("-cf").arg(&archive).arg("."));
        archive.to_str().unwrap().to_owned()
    };
    let links = pack("links", &|tree| {
        symlink(&outside, tree.join("out \"of\" it")).unwrap();
        fs::create_dir(tree.join("usr")).unwrap();
        symlink("usr", tree.join("bin")).unwrap();
    });
    let evil = pack("evil", &|tree| {
        fs::create_dir(tree.join("out \"of\" it")).unwrap();
        fs::write(tree.join("out \"of\" it/evil"), "x").unwrap();
    });
    let good = host.at("good.tar");
    let tree = host.at("tree-good");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::write(tree.join("bin/own"), "x").unwrap();
    let mut tar = Command::new("tar");
    command(
        tar.arg("-C")
            .arg(&tree)
            .arg("-cf")
            .arg(&good)
            .arg("bin/own"),
    );
    let root = root(&host);
    let build = ["web", "build", "-m", "template", &root, "--", "-t"];
    // Without the members that are directories, which tar puts in the place of a link.
    let only = host.at("only.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(host.at("tree-evil"))
        .arg("-cf")
        .arg(&only);
    command(tar.arg("out \"of\" it/evil"));
    let mut arguments = build.to_vec();
    arguments.extend([links.as_str(), "-t", only.to_str().unwrap()]);
    let line = host.refused(&arguments, 1);
    assert!(line.contains("out of the guest"), "{line}");
    assert_nothing_is_built(&host);
    let mut arguments = build.to_vec();
    arguments.extend([links.as_str(), "-t", evil.as_str()]);
    drop(host.run(&arguments));
    assert!(!outside.join("evil").exists());
    drop(host.run(&["--silent", "web", "delete"]));
    let mut arguments = build.to_vec();
    arguments.extend([links.as_str(), "-t", good.to_str().unwrap()]);
    host.ok(&arguments);
    assert_eq!(fs::read(host.vdir("web").join("usr/own")).unwrap(), b"x");
}
