//! Guests are built from OCI images: layers over one another, every digest verified, and nothing outside.
//!
//! | file | what it holds |
//! | --- | --- |
//! | [`image`] | images to build from |
//! | [`outside`] | images that would write to the host |

pub mod image;
mod outside;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tar::EntryType;

use vhashify_testkit::filesystem::command;

use super::host::{Host, listing, template, wait_until};
use image::{DIRECTORY, FILE, Image, SYMLINK, archive, pack};

fn build(host: &Host, name: &str, image: &Path, more: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> = [name, "build", "-m", "oci"].map(str::to_owned).into();
    arguments.push(format!("--rootdir={}", host.at("vdirs").display()));
    arguments.extend(["--", "-i", image.to_str().unwrap()].map(str::to_owned));
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    arguments
}

fn ok(host: &Host, name: &str, image: &Path, more: &[&str]) {
    let arguments = build(host, name, image, more);
    host.ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

fn refused(host: &Host, name: &str, image: &Path, more: &[&str]) -> String {
    let arguments = build(host, name, image, more);
    let line = host.refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    for left in [
        host.vdir(name),
        host.at("vdirs").join(format!(".{name}.building")),
    ] {
        assert!(!left.exists(), "{} is left", left.display());
    }
    assert!(!host.at("conf").join(name).exists());
    line
}

/// What the first layer holds and the second leaves alone.
fn unchanged(top: &Path) -> Vec<(PathBuf, (u32, u64, u32, u32))> {
    let changed = [
        "etc/motd",
        "etc/issue",
        "var/lib/dpkg/info",
        "bin/own",
        "usr/bin/own",
        "opt",
    ];
    let mut found: Vec<_> = listing(top)
        .into_iter()
        .map(|(path, of)| (path.strip_prefix(top).unwrap().to_path_buf(), of))
        .collect();
    found.retain(|(path, _)| !changed.iter().any(|place| path.starts_with(place)));
    found
}

/// Makes what the first layer holds: a guest, and a file with all that an inode can carry.
fn make_first_layer(tree: &Path) {
    command(Command::new("cp").args(["-a".as_ref(), template("alpha"), tree]));
    fs::remove_dir_all(tree.join("dev")).unwrap();
    fs::create_dir(tree.join("dev")).unwrap();
    fs::write(tree.join("srv/own"), "with an attribute").unwrap();
    xattr::set(tree.join("srv/own"), "user.colour", b"green").unwrap();
    std::os::unix::fs::chown(tree.join("srv/own"), Some(1234), Some(2345)).unwrap();
    command(Command::new("chmod").arg("4751").arg(tree.join("srv/own")));
    fs::hard_link(tree.join("srv/own"), tree.join("srv/again")).unwrap();
    command(
        Command::new("touch")
            .args(["-d", "2001-02-03 04:05:06.789"])
            .arg(tree.join("srv/own")),
    );
    command(
        Command::new("touch")
            .args(["-d", "2002-02-02"])
            .arg(tree.join("srv")),
    );
}

/// What comes over it: a file replaced, one removed, a directory emptied, and a name through a link (/bin).
fn second_layer() -> Vec<u8> {
    archive(&[
        ("etc/motd", FILE, "", "of the second layer"),
        ("etc/.wh.issue", FILE, "", ""),
        ("var/lib/dpkg/info/first", FILE, "", "kept"),
        ("var/lib/dpkg/info/.wh..wh..opq", FILE, "", ""),
        ("var/lib/dpkg/info/later", FILE, "", "kept"),
        ("bin/own", FILE, "", "#!/bin/sh\necho of the image\n"),
        ("opt", SYMLINK, "srv", ""),
        ("dev/null", EntryType::Char, "", ""),
        ("./", DIRECTORY, "", ""),
    ])
}

/// Panics unless a guest is what its layers make of it.
fn assert_is_of_both_layers(vdir: &Path, tree: &Path) {
    assert!(
        unchanged(tree) == unchanged(vdir),
        "the first layer is not as it was"
    );
    let read = |below: &str| fs::read_to_string(vdir.join(below)).unwrap();
    assert_eq!(read("etc/motd"), "of the second layer");
    assert!(!vdir.join("etc/issue").exists());
    let mut left: Vec<_> = fs::read_dir(vdir.join("var/lib/dpkg/info"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["first", "later"]);
    assert_eq!(read("usr/bin/own"), "#!/bin/sh\necho of the image\n");
    assert!(vdir.join("bin").symlink_metadata().unwrap().is_symlink());
    let (from, to) = (tree.join("srv/own"), vdir.join("srv/own"));
    let stat = |path: &Path| {
        let of = path.metadata().unwrap();
        (
            of.mode(),
            of.uid(),
            of.gid(),
            of.mtime(),
            of.mtime_nsec(),
            of.nlink(),
        )
    };
    assert_eq!(stat(&from), stat(&to));
    assert_eq!(xattr::get(&to, "user.colour").unwrap().unwrap(), b"green");
    assert_eq!(
        fs::metadata(vdir.join("srv")).unwrap().mtime(),
        fs::metadata(tree.join("srv")).unwrap().mtime()
    );
}

#[test]
fn a_real_guest_is_built_of_two_layers_and_starts() {
    let host = Host::new();
    let tree = host.at("tree");
    make_first_layer(&tree);
    let mut image = Image::new(&host.at("image"));
    image.layer(&pack(&tree), "zstd");
    image.layer(&second_layer(), "gzip");
    image.finish("latest");
    ok(&host, "web", &host.at("image"), &[]);
    let vdir = host.vdir("web");
    assert_is_of_both_layers(&vdir, &tree);
    host.set("web", "apps/init/style", "plain\n");
    host.set("web", "apps/init/cmd.start", "/bin/sleep\n1000\n");
    host.ok(&["web", "start"]);
    assert_eq!(host.ok(&["web", "exec", "own"]), "of the image\n");
    // The same as an archive, and the images of one layout by name.
    let file = host.at("image.tar");
    command(
        Command::new("tar")
            .arg("-C")
            .arg(host.at("image"))
            .arg("-cf")
            .arg(&file)
            .args(["oci-layout", "index.json", "blobs"]),
    );
    ok(&host, "mail", &file, &["--ref", "latest"]);
    assert!(unchanged(&vdir).len() > 5000 && unchanged(&tree) == unchanged(&host.vdir("mail")));
}

#[test]
fn a_whiteout_removes_only_what_lower_layers_have() {
    let host = Host::new();
    let mut image = Image::new(&host.at("image"));
    image.layer(
        &archive(&[
            ("a/b/old", FILE, "", "old"),
            ("a/c/old", FILE, "", "old"),
            ("gone/deep/file", FILE, "", "x"),
            ("becomes", DIRECTORY, "", ""),
            ("becomes/file", FILE, "", "x"),
            ("link", SYMLINK, "a", ""),
        ]),
        "tar",
    );
    image.layer(
        &archive(&[
            ("a/b/new", FILE, "", "new"),
            ("a/.wh..wh..opq", FILE, "", ""),
            (".wh.gone", FILE, "", ""),
            (".wh.never", FILE, "", ""),
            ("becomes", FILE, "", "a file"),
            ("link", DIRECTORY, "", ""),
            ("link/own", FILE, "", "x"),
            ("both", FILE, "", "stays"),
            (".wh.both", FILE, "", ""),
            ("twice", EntryType::Link, "both", ""),
        ]),
        "tar",
    );
    image.finish("x");
    ok(&host, "web", &host.at("image"), &[]);
    let top = host.vdir("web");
    let names: Vec<String> = listing(&top)
        .into_keys()
        .map(|path| {
            path.strip_prefix(&top)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(
        names,
        [
            "a", "a/b", "a/b/new", "becomes", "both", "link", "link/own", "twice"
        ]
    );
    assert_eq!(fs::read(top.join("becomes")).unwrap(), b"a file");
    let inode = |name: &str| top.join(name).metadata().unwrap().ino();
    assert_eq!(inode("both"), inode("twice"));
}

#[test]
fn what_is_damaged_or_is_no_image_is_refused() {
    let host = Host::new();
    let top = host.at("image");
    let mut image = Image::new(&top);
    image.layer(&archive(&[("file", FILE, "", "content")]), "gzip");
    let descriptor = image.finish("x");
    let digest = |of: &Value| of["digest"].as_str().unwrap()["sha256:".len()..].to_owned();
    let (layer, manifest) = (digest(&image.layers[0]), digest(&descriptor));
    for (blob, of) in [(&layer, "layer 1 of 1"), (&manifest, &manifest)] {
        let path = top.join("blobs/sha256").join(blob);
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut longer = good.clone();
        longer.push(0);
        for (bytes, said) in [
            (flipped, "digest"),
            (good[..good.len() - 1].to_vec(), "bytes, not"),
            (longer, "longer"),
        ] {
            fs::write(&path, bytes).unwrap();
            let line = refused(&host, "web", &top, &[]);
            assert!(line.contains(said) && line.contains(of), "{line}");
        }
        fs::remove_file(&path).unwrap();
        let line = refused(&host, "web", &top, &[]);
        assert!(line.contains("does not hold it"), "{line}");
        command(Command::new("mkfifo").arg(&path));
        let line = refused(&host, "web", &top, &[]);
        assert!(line.contains("not a plain file"), "{line}");
        fs::remove_file(&path).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        refused(&host, "web", &top, &[]);
        fs::remove_file(&path).unwrap();
        fs::write(&path, good).unwrap();
    }
    let line = refused(&host, "web", &top, &["--ref", "other"]);
    assert!(
        line.contains("\"other\"") && line.contains("\"x\""),
        "{line}"
    );
    image.index(&[descriptor.clone(), descriptor.clone()]);
    let line = refused(&host, "web", &top, &[]);
    assert!(line.contains("--ref"), "{line}");
    let mut bad = descriptor.clone();
    bad["digest"] = json!("sha256:../../../../etc/passwd");
    image.index(&[bad]);
    let line = refused(&host, "web", &top, &[]);
    assert!(line.contains("index makes no sense"), "{line}");
    image.index(&[descriptor]);
    for (text, said) in [
        ("", "oci-layout makes no sense"),
        ("{\"a\":", "oci-layout makes no sense"),
    ] {
        fs::write(top.join("oci-layout"), text).unwrap();
        let line = refused(&host, "web", &top, &[]);
        assert!(line.contains(said), "{line}");
    }
    let plain = host.at("plain");
    fs::write(&plain, "no archive").unwrap();
    for (path, said) in [
        (plain.as_path(), "no tar archive"),
        (Path::new("/no/such/image"), "no such file"),
        (&host.at("conf"), "no OCI image layout"),
        (Path::new("/dev/null"), "not a plain file"),
    ] {
        let line = refused(&host, "web", path, &[]);
        assert!(line.contains(said), "{line}");
    }
    assert_eq!(
        host.run(&["web", "build", "-m", "oci"]).status.code(),
        Some(2)
    );
}

#[test]
fn an_interrupted_build_of_an_image_leaves_nothing() {
    let host = Host::new();
    let mut image = Image::new(&host.at("image"));
    // Much to unpack, of little to read.
    let zeros = host.at("zeros");
    fs::create_dir(&zeros).unwrap();
    fs::File::create(zeros.join("file"))
        .unwrap()
        .set_len(2 << 30)
        .unwrap();
    let made = Command::new("sh")
        .args(["-c", "tar -C \"$0\" -c file | gzip -1"])
        .arg(&zeros)
        .output()
        .unwrap();
    let layer = image.blob(&made.stdout, "application/vnd.oci.image.layer.v1.tar+gzip");
    image.layers.push(layer);
    image.finish("x");
    let arguments = build(&host, "web", &host.at("image"), &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut child = host
        .vserver(&arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let file = host.at("vdirs/.web.building/file");
    wait_until("it has begun", || file.exists());
    command(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]));
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(!host.at("vdirs/.web.building").exists() && !host.at("conf/web").exists());
}
