//! How guests and stores may not lie on the host. All of it is found before anything is touched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::program::vhashify;

use super::still::refused_untouched;
use super::tree::{Tree, is_shared, write};

/// A place with a store `hash` and guests `web` and `mail`.
struct Place(PathBuf);

impl Place {
    fn new(filesystem: &Filesystem) -> Self {
        let this = Self(filesystem.path().to_path_buf());
        for name in ["web", "mail"] {
            write(&this.at(name), "usr/bin/tool", "the same");
        }
        fs::create_dir(this.at("hash")).unwrap();
        this
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn run(&self, store: &Path, roots: &[&Path]) -> Command {
        let mut command = vhashify();
        command.args(["--protect", "none", "--manually", "--destination"]);
        command
            .arg(store)
            .args(roots)
            .arg("--state-dir")
            .arg(self.at("state"));
        command
    }

    /// A run with this store and these guests is refused, and so is a tree that says the same.
    fn refuses(&self, store: &Path, roots: &[&Path], words: &[&str]) {
        refused_untouched(&self.0, &mut self.run(store, roots), 2, words);
        let other = tempfile::tempdir().unwrap();
        let tree = Tree {
            place: other.path().to_path_buf(),
        };
        tree.link(".defaults/apps/vunify/hash/root", store);
        for (number, root) in roots.iter().enumerate() {
            tree.mark(format!("guest{number}"));
            tree.link(format!("guest{number}/vdir"), root);
        }
        let mut command = tree.command(["--protect", "none", "--all"]);
        refused_untouched(&self.0, &mut command, 2, words);
        assert!(!tree.state().exists(), "an index was begun");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_guest_that_is_the_host_itself() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let place = Place::new(&filesystem);
    let link = place.at("link");
    symlink("/", &link).unwrap();
    for root in [Path::new("/"), &link, Path::new("/proc/../")] {
        let words = ["the vdir / ", "host's root directory", "of its own"];
        place.refuses(&place.at("hash"), &[root, &place.at("web")], &words);
    }
}

#[test]
fn a_store_in_a_guest_or_a_guest_as_a_store() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let place = Place::new(&filesystem);
    let (web, mail) = (place.at("web"), place.at("mail"));
    let inside = web.join("var/hash");
    fs::create_dir_all(&inside).unwrap();
    let around = place.at("");
    let hash = place.at("hash");
    for (store, roots, holder) in [
        (&inside, vec![&*web, &*mail], &web),
        (&web, vec![&*web, &*mail], &web),
        (&hash, vec![&*around], &place.0),
        (&hash, vec![&*mail, &*around], &place.0),
    ] {
        let words = [
            &format!(
                "the store {} lies in the vdir {}",
                text(store),
                text(holder)
            )[..],
            "put the store beside the vdirs",
        ];
        place.refuses(store, &roots, &words);
    }
}

#[test]
fn a_guest_in_a_store() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let place = Place::new(&filesystem);
    let (hash, web) = (place.at("hash"), place.at("web"));
    let inside = hash.join("deep/guest");
    fs::create_dir_all(&inside).unwrap();
    let words = [
        text(&inside),
        text(&hash),
        "lies in the store",
        "move the vdir",
    ];
    place.refuses(&hash, &[&inside, &web], &words);
}

#[test]
fn a_guest_in_a_guest() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let place = Place::new(&filesystem);
    let web = place.at("web");
    let inside = web.join("srv/guests/inner");
    fs::create_dir_all(&inside).unwrap();
    let words = [
        &format!("the vdir {} lies in the vdir {}", text(&inside), text(&web))[..],
        "move",
    ];
    place.refuses(&place.at("hash"), &[&inside, &web], &words);
    place.refuses(&place.at("hash"), &[&web, &inside], &words);
    // The same through a link that hides it.
    let link = place.at("link");
    symlink(&inside, &link).unwrap();
    place.refuses(&place.at("hash"), &[&web, &link], &words);
}

#[test]
fn one_directory_for_two_guests() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let place = Place::new(&filesystem);
    let web = place.at("web");
    let link = place.at("link");
    symlink(&web, &link).unwrap();
    let detour = place.at("mail/../web");
    for again in [&web, &link, &detour] {
        let words = ["have the same vdir", text(&web), "leave it out"];
        place.refuses(&place.at("hash"), &[&web, again], &words);
    }
}

#[test]
fn a_store_on_another_filesystem_names_both() {
    let here = Filesystem::new(Kind::Ext4);
    let there = Filesystem::new(Kind::Ext4);
    let place = Place::new(&here);
    let far = there.path().join("hash");
    fs::create_dir(&far).unwrap();
    let (web, mail) = (place.at("web"), place.at("mail"));
    let words = [text(&web), text(&far), "without a store", "--destination"];
    place.refuses(&far, &[&web, &mail], &words);
    assert_eq!(fs::read_dir(&far).unwrap().count(), 0);
}

#[test]
fn a_subvolume_without_a_store_of_its_own() {
    let filesystem = Filesystem::new(Kind::Btrfs);
    let place = Place::new(&filesystem);
    let volume = place.at("volume");
    command(
        Command::new("btrfs")
            .args(["-q", "subvolume", "create"])
            .arg(&volume),
    );
    write(&volume, "usr/bin/tool", "the same");
    let hash = place.at("hash");
    let words = [text(&volume), text(&hash), "without a store"];
    place.refuses(&hash, &[&place.at("web"), &volume], &words);
}

/// A bind mount, or an overlay, that is gone when the test is over.
struct Bind(PathBuf);

impl Bind {
    fn new(from: &Path, to: PathBuf) -> Self {
        fs::create_dir_all(&to).unwrap();
        command(Command::new("mount").arg("--bind").args([from, &to]));
        Self(to)
    }

    /// An overlay of `at/lower` and what is written in it.
    fn overlay(at: &Path, index: &str) -> Self {
        let layer = |name: &str| {
            fs::create_dir_all(at.join(name)).unwrap();
            at.join(name)
        };
        let (lower, upper, work) = (layer("lower"), layer("upper"), layer("work"));
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index={index}",
            text(&lower),
            text(&upper),
            text(&work)
        );
        let to = layer("merged");
        command(
            Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(&to),
        );
        Self(to)
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).output());
    }
}

#[test]
fn a_guest_and_its_store_on_two_mounts_of_one_filesystem() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let place = Place::new(&filesystem);
    let other = tempfile::tempdir().unwrap();
    let bind = Bind::new(&place.0, other.path().join("bind"));
    let hash = bind.0.join("hash");
    let (web, mail) = (place.at("web"), place.at("mail"));
    let words = [
        "on two mounts",
        text(&web),
        text(&hash),
        "below the same mount",
    ];
    place.refuses(&hash, &[&web, &mail], &words);

    // Below one mount, whichever, all is well.
    let (web, mail) = (bind.0.join("web"), bind.0.join("mail"));
    let done = place.run(&hash, &[&web, &mail]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(is_shared(
        &place.at("web/usr/bin/tool"),
        &place.at("mail/usr/bin/tool")
    ));
}

/// A file of a lower layer gets another inode when it is first linked or written, and its other names keep the old
/// one.
#[test]
fn inv3_guests_and_a_store_on_an_overlay() {
    let filesystem = Filesystem::new(Kind::Ext4);
    for index in ["off", "on"] {
        let at = filesystem.path().join(index);
        let lower = at.join("lower");
        for guest in ["web", "mail"] {
            write(&lower.join(guest), "usr/bin/tool", "the same");
            let names = ["usr/bin/tool", "usr/bin/again"].map(|name| lower.join(guest).join(name));
            fs::hard_link(&names[0], &names[1]).unwrap();
        }
        fs::create_dir(lower.join("hash")).unwrap();
        let overlay = Bind::overlay(&at, index);
        let place = Place(overlay.0.clone());
        let (hash, web, mail) = (place.at("hash"), place.at("web"), place.at("mail"));
        let words = ["lies on an overlay", "hard links", "upperdir"];
        place.refuses(&hash, &[&web, &mail], &words);
        // One of them is enough, and a dry run says the same.
        let elsewhere = filesystem.path().join("elsewhere");
        fs::create_dir_all(&elsewhere).unwrap();
        for (store, guest, which) in [(&elsewhere, &web, &web), (&hash, &elsewhere, &hash)] {
            let named = format!("{} lies on an overlay", text(which));
            for options in [&["--dry-run"][..], &[]] {
                let mut run = place.run(store, &[guest]);
                refused_untouched(&place.0, run.args(options), 2, &[&named]);
            }
        }
        drop(overlay);
        // As the message says: the directory that holds the files, while no overlay is made of it.
        let place = Place(lower);
        let [hash, web, mail] = ["hash", "web", "mail"].map(|name| place.at(name));
        let done = place.run(&hash, &[&web, &mail]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let tools = [&web, &mail].map(|guest| guest.join("usr/bin/tool"));
        assert!(is_shared(&tools[0], &tools[1]));
        assert!(is_shared(&tools[0], &mail.join("usr/bin/again")));
    }
}

#[test]
fn a_store_or_a_guest_that_cannot_be_opened() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let place = Place::new(&filesystem);
    let (hash, web) = (place.at("hash"), place.at("web"));
    let (nowhere, file, link) = (
        place.at("nowhere"),
        place.at("web/usr/bin/tool"),
        place.at("link"),
    );
    symlink(&nowhere, &link).unwrap();
    for (path, reason) in [
        (
            &nowhere,
            "no such file or directory; make it, or correct the path",
        ),
        (
            &link,
            "no such file or directory; make it, or correct the path",
        ),
        (&file, "not a directory; name a directory"),
    ] {
        let store = format!("the store {} cannot be opened: {reason}", text(path));
        refused_untouched(&place.0, &mut place.run(path, &[&web]), 2, &[&store]);
        let vdir = format!("the vdir {} cannot be opened: {reason}", text(path));
        refused_untouched(&place.0, &mut place.run(&hash, &[&web, path]), 2, &[&vdir]);
        for arguments in [&["gc"][..], &["verify"], &["report"]] {
            let mut command = vhashify();
            command.args(arguments).arg("--destination").arg(path);
            command.arg("--state-dir").arg(place.at("state"));
            refused_untouched(&place.0, &mut command, 2, &[&store]);
        }
    }
}

#[test]
fn a_filesystem_that_is_read_only() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let place = Place::new(&filesystem);
    filesystem.remount("ro");
    let hash = place.at("hash");
    let words = [text(&hash), "read-only filesystem", "mount -o remount,rw"];
    let other = tempfile::tempdir().unwrap();
    let mut run = place.run(&hash, &[&place.at("web"), &place.at("mail")]);
    run.arg("--no-wait");
    refused_untouched(&place.0, &mut run, 2, &words);
    for arguments in [&["gc"][..], &["verify", "--repair"]] {
        let mut command = vhashify();
        command.args(arguments).arg("--destination").arg(&hash);
        command.arg("--state-dir").arg(other.path());
        let done = command.output().unwrap();
        // Nothing is there to be removed or repaired: no reason to refuse.
        assert!(done.status.success(), "{done:?}");
    }
}
