//! What comes with the files of a new guest and must not stay: device nodes, and what looks like `vhashify`'s own.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use vhashify_testkit::filesystem::command;

use super::super::host::{Host, listing};
use super::super::oci::image::{Image, pack};
use super::root;

/// A tree with a file, a socket and a FIFO, which stay, and three device nodes with names that a pattern would spoil.
fn make_devices(tree: &Path) {
    fs::create_dir_all(tree.join("dev/*")).unwrap();
    fs::write(tree.join("dev/*/kept"), "kept").unwrap();
    command(Command::new("mkfifo").arg(tree.join("dev/fifo")));
    for (name, kind, major, minor) in [
        ("dev/null", "c", "1", "3"),
        ("dev/*/disk 1", "b", "254", "0"),
        ("dev/a\n[b]\\", "c", "1", "5"),
    ] {
        let node = tree.join(name);
        command(Command::new("mknod").arg(node).args([kind, major, minor]));
    }
}

/// What each method makes of the tree: the guest's name, and what the build said.
fn by_each_method(host: &Host, tree: &Path) -> Vec<(&'static str, String)> {
    let archive = host.at("tree.tar");
    let mut tar = Command::new("tar");
    tar.args(["-c", "--xattrs", "--xattrs-include=*", "-f"]);
    command(tar.arg(&archive).arg("-C").arg(tree).arg("."));
    let image = host.at("image");
    let mut made = Image::new(&image);
    made.layer(&pack(tree), "tar");
    made.finish("it");
    let (archive, image) = (archive.to_str().unwrap(), image.to_str().unwrap());
    let tree = tree.to_str().unwrap();
    let methods = [
        ("template", ["-t", archive]),
        ("rsync", ["--source", tree]),
        ("oci", ["-i", image]),
        ("clone", ["--source", tree]),
    ];
    let build = |(method, source): (&'static str, [&str; 2])| {
        let root = root(host);
        let words = [method, "build", "-m", method, &root, "--"];
        let output = host.run(&[&words[..], &source].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{method}: {said}");
        (method, said)
    };
    methods.map(build).into()
}

fn names(top: &Path) -> Vec<PathBuf> {
    let names = listing(top).into_keys();
    let relative = |path: PathBuf| path.strip_prefix(top).unwrap().to_path_buf();
    names.map(relative).collect()
}

#[test]
fn no_method_makes_a_device_node_and_each_says_how_many_it_left_out() {
    let host = Host::new();
    let tree = host.at("tree");
    make_devices(&tree);
    let mut kept = names(&tree);
    kept.retain(|name| {
        let kind = tree.join(name).symlink_metadata().unwrap().file_type();
        !kind.is_char_device() && !kind.is_block_device()
    });
    assert_eq!(kept.len(), 4);
    for (name, said) in by_each_method(&host, &tree) {
        assert_eq!(names(&host.vdir(name)), kept, "{name}");
        assert!(said.contains("left out: 3 device nodes"), "{name}: {said}");
    }
    // A pipe cannot be listed first. That tar could make none is what holds there.
    let pipe = host.at("pipe.tar");
    command(Command::new("mkfifo").arg(&pipe));
    let mut writer = Command::new("sh");
    writer.args(["-c", "exec cat <\"$0\" >\"$1\""]);
    let mut writer = writer.arg(host.at("tree.tar")).arg(&pipe).spawn().unwrap();
    let root = root(&host);
    let words = [
        "pipe",
        "build",
        "-m",
        "template",
        &root,
        "--",
        "-t",
        pipe.to_str().unwrap(),
    ];
    let line = host.refused(&words, 1);
    writer.wait().unwrap();
    assert!(line.contains("tar failed"), "{line}");
    let nodes = |top: &Path| {
        let modes = listing(top)
            .into_values()
            .map(|(mode, ..)| mode & libc::S_IFMT);
        let device = |mode: &u32| [libc::S_IFCHR, libc::S_IFBLK].contains(mode);
        modes.filter(device).count()
    };
    assert_eq!(nodes(&host.at("vdirs")), 0);
}

#[test]
fn what_is_vhashifys_own_does_not_come_with_the_files_of_a_guest() {
    let host = Host::new();
    let tree = host.at("tree");
    fs::create_dir_all(tree.join("etc/.vhashify-work-80001/1")).unwrap();
    fs::write(tree.join("etc/.vhashify-work-80001/1/x"), "").unwrap();
    let hex = "0123456789abcdef0123456789abcdef";
    fs::write(tree.join(format!("etc/.vhashify-{hex}")), "").unwrap();
    fs::write(tree.join("etc/.vhashify"), "kept").unwrap();
    fs::write(tree.join("etc/file"), "kept").unwrap();
    for (place, name) in [
        ("", "run"),
        ("etc", "guarded"),
        ("etc/file", "copy"),
        ("etc/file", "any"),
    ] {
        xattr::set(
            tree.join(place),
            format!("trusted.vhashify.{name}"),
            b"12345678",
        )
        .unwrap();
    }
    xattr::set(tree.join("etc/file"), "trusted.other", b"kept").unwrap();
    command(
        Command::new("touch")
            .args(["-d", "2001-01-01"])
            .arg(tree.join("etc")),
    );
    let kept = ["etc", "etc/.vhashify", "etc/file"].map(PathBuf::from);
    for (name, said) in by_each_method(&host, &tree) {
        let vdir = host.vdir(name);
        assert_eq!(names(&vdir), kept, "{name}: {said}");
        for place in ["", "etc", "etc/file"] {
            let mut found = xattr::list(vdir.join(place)).unwrap();
            assert!(
                !found.any(|name| name.as_encoded_bytes().starts_with(b"trusted.vhashify.")),
                "{name}: {place}"
            );
        }
        let other = xattr::get(vdir.join("etc/file"), "trusted.other").unwrap();
        assert_eq!(other.as_deref(), Some(&b"kept"[..]), "{name}");
        let time = |top: &Path| top.join("etc").metadata().unwrap().mtime();
        assert_eq!(time(&vdir), time(&tree), "{name}");
        assert!(
            said.contains("4 attributes trusted.vhashify.*, 2 names .vhashify-*"),
            "{name}: {said}"
        );
    }
}
