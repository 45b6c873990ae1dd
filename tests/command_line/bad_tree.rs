//! What can be wrong in the configuration tree. Each is one line that names the path and what to
//! do, and nothing is changed: not the guests that are well, either.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::program::{output, vhashify};

use super::still::{Still, refused_untouched};
use super::tree::{Tree, is_shared, write};

/// A tree whose guests `mail` and `web` are well.
fn well(filesystem: &Filesystem) -> Tree {
    let tree = Tree::new(filesystem.path());
    for name in ["mail", "web"] {
        write(&tree.guest(name), "usr/bin/tool", "the same");
    }
    tree
}

/// `--all` must refuse with status 2, one line that holds `words`, and nothing changed.
fn refuses(tree: &Tree, words: &[&str]) -> String {
    let mut command = tree.command(["--protect", "none", "--all"]);
    refused_untouched(&tree.place, &mut command, 2, words)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_tree_that_is_missing_or_no_directory() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    let file = tree.place.join("file");
    fs::write(&file, "").unwrap();
    for (path, reason) in [
        (tree.place.join("nowhere"), "no such file or directory"),
        (file.clone(), "not a directory"),
        (file.join("below"), "not a directory"),
    ] {
        for arguments in [
            &["--protect", "none", "--all"][..],
            &["web"],
            &["gc"],
            &["report"],
        ] {
            let words = [&text(&path), reason, "--config-dir or VSERVER_CONFDIR"];
            let mut by_option = vhashify();
            by_option.arg("--config-dir").arg(&path).args(arguments);
            refused_untouched(&tree.place, &mut by_option, 2, &words);
            let mut by_environment = vhashify();
            by_environment.env("VSERVER_CONFDIR", &path).args(arguments);
            refused_untouched(&tree.place, &mut by_environment, 2, &words);
        }
    }
}

#[test]
fn a_tree_that_cannot_be_read() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    // Root may read whatever the mode says, so the disk itself has to refuse.
    let damaged = Filesystem::new(Kind::Ext4);
    let copy = Tree {
        place: damaged.path().to_path_buf(),
    };
    command(
        Command::new("cp")
            .arg("-a")
            .arg(tree.at(""))
            .arg(&copy.place),
    );
    damaged.while_unmounted(|image| {
        command(
            Command::new("debugfs")
                .args(["-w", "-R", "clri /conf/web"])
                .arg(image),
        );
    });
    let mut run = vhashify();
    run.arg("--config-dir")
        .arg(copy.at(""))
        .args(["--protect", "none", "--all"]);
    let below = text(&copy.at("web"));
    refused_untouched(
        &tree.place,
        &mut run,
        2,
        &[&below, "cannot be read", "fsck"],
    );
}

#[test]
fn a_tree_without_marked_guests() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = Tree::new(filesystem.path());
    fs::create_dir(tree.at("web")).unwrap();
    refuses(&tree, &[&text(&tree.at("")), "mkdir -p NAME/apps/vunify"]);
}

#[test]
fn a_guest_without_a_root_directory() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    tree.mark("rootless");
    tree.link(".defaults/vdirbase", &tree.place);
    let link = text(&tree.at("rootless/vdir"));
    refuses(
        &tree,
        &[
            "the guest rootless has no root directory",
            &text(&tree.place.join("rootless")),
            &format!("ln -s DIRECTORY {link}"),
        ],
    );
}

#[test]
fn a_root_directory_that_is_none() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    let link = tree.at("web/vdir");
    let nowhere = tree.place.join("nowhere");
    let file = tree.place.join("file");
    fs::write(&file, "").unwrap();
    for (target, words) in [
        (&nowhere, &[&text(&nowhere)[..], "where nothing is"][..]),
        (&file, &["is not a directory"]),
        // A link to itself.
        (&link, &["where nothing is"]),
    ] {
        fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
        let told = refuses(&tree, words);
        assert!(
            told.contains(&text(&link)) && told.contains("ln -sfn"),
            "{told}"
        );
    }
}

#[test]
fn a_mark_that_is_no_directory() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    tree.value("odd/apps/vunify", "");
    refuses(
        &tree,
        &[
            &text(&tree.at("odd/apps/vunify")),
            "is not a directory; replace it",
        ],
    );
}

#[test]
fn no_store_at_all() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    let hash = tree.at(".defaults/apps/vunify/hash");
    let advice = format!("mkdir -p {0} && ln -s STORE {0}/root", text(&hash));
    fs::remove_file(hash.join("root")).unwrap();
    refuses(&tree, &["no store is configured", &advice]);
    fs::remove_dir(&hash).unwrap();
    refuses(&tree, &["no store is configured", &advice]);
    for command in ["gc", "verify"] {
        refused_untouched(&tree.place, &mut tree.command([command]), 2, &[&advice]);
    }
    // An empty directory of its own means that the guest has no store, not that it has the default.
    tree.link(".defaults/apps/vunify/hash/root", &tree.store());
    let own = tree.at("web/apps/vunify/hash");
    fs::create_dir(&own).unwrap();
    refuses(&tree, &["no store is configured", &text(&own)]);
}

#[test]
fn a_store_link_that_leads_nowhere() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    let gone = tree.place.join("gone");
    for place in [
        ".defaults/apps/vunify/hash/second",
        "web/apps/vunify/hash/own",
    ] {
        tree.link(place, &gone);
        let (entry, gone) = (text(&tree.at(place)), text(&gone));
        let words = [
            &format!("the store {entry} is a link to {gone}")[..],
            &format!("mkdir -p {gone}"),
        ];
        refuses(&tree, &words);
        for command in ["gc", "verify", "report"] {
            refused_untouched(&tree.place, &mut tree.command([command]), 2, &words);
        }
        fs::remove_file(tree.at(place)).unwrap();
        drop(fs::remove_dir(tree.at("web/apps/vunify/hash")));
    }
}

#[test]
fn a_store_that_is_a_file() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    tree.value(".defaults/apps/vunify/hash/second", "");
    refuses(
        &tree,
        &[
            &text(&tree.at(".defaults/apps/vunify/hash/second")),
            "is not a directory",
        ],
    );
}

#[test]
fn two_stores_on_one_filesystem() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    let other = tree.place.join("other");
    fs::create_dir(&other).unwrap();
    // In one directory of the tree …
    let second = ".defaults/apps/vunify/hash/second";
    tree.link(second, &other);
    let (first, again) = (
        text(&tree.at(".defaults/apps/vunify/hash/root")),
        text(&tree.at(second)),
    );
    refuses(
        &tree,
        &["on one filesystem", &first, &format!("rm {again}")],
    );
    fs::remove_file(tree.at(second)).unwrap();
    // … and in two, of guests that go together in one run.
    tree.link("web/apps/vunify/hash/own", &other);
    refuses(
        &tree,
        &["on one filesystem", &text(&tree.store()), &text(&other)],
    );
}

#[test]
fn one_root_directory_for_two_guests() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    tree.mark("again");
    tree.link("again/vdir", &tree.at("web/vdir"));
    let web = text(&tree.place.join("web"));
    refuses(
        &tree,
        &["the guests again and web have the same vdir", &web],
    );
}

#[test]
fn a_list_that_cannot_be_used_is_named_with_its_line() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    for (text_of_list, line, reason) in [
        ("/etc\n# comment\n\nvar/log\n", 4, "begins neither with '/'"),
        ("-\n", 1, "is empty"),
        ("/ok\n+/a[bc\n", 2, "is not closed"),
        ("/ok\n/a[z-a]\n", 2, "ends before it begins"),
        ("/ok\r\n/lone\\\r\n", 2, "lone backslash"),
        ("/ok\n/nul\0\n", 2, "NUL"),
    ] {
        for place in [".defaults/apps/vunify/exclude", "web/apps/vunify/exclude"] {
            tree.value(place, text_of_list);
            let words = [
                &format!("{}:{line}: ", text(&tree.at(place)))[..],
                reason,
                "correct the line",
            ];
            refuses(&tree, &words);
            fs::remove_file(tree.at(place)).unwrap();
        }
        let list = tree.place.join("list");
        fs::write(&list, text_of_list).unwrap();
        let mut manually = vhashify();
        manually
            .args(["--protect", "none", "--manually", "--destination"])
            .arg(tree.store());
        manually
            .arg("--exclude-from")
            .arg(&list)
            .arg(tree.place.join("web"));
        let words = [&format!("{}:{line}: ", text(&list))[..], reason];
        refused_untouched(&tree.place, &mut manually, 2, &words);
    }
}

#[test]
fn a_list_that_is_no_file_or_missing() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    let place = tree.at("web/apps/vunify/exclude");
    fs::create_dir(&place).unwrap();
    refuses(&tree, &[&text(&place), "is not a file; replace it"]);
    fs::remove_dir(&place).unwrap();
    symlink("nowhere", &place).unwrap();
    refuses(&tree, &[&text(&place), "where nothing is"]);

    for (list, reason) in [
        (
            tree.place.join("nowhere"),
            "no such file or directory; make it",
        ),
        (tree.place.join("web"), "is a directory; name a file"),
    ] {
        let mut manually = vhashify();
        manually
            .args(["--protect", "none", "--manually", "--destination"])
            .arg(tree.store());
        manually
            .arg("--exclude-from")
            .arg(&list)
            .arg(tree.place.join("web"));
        refused_untouched(&tree.place, &mut manually, 2, &[&text(&list), reason]);
    }
}

#[test]
fn an_error_in_a_guest_of_any_name_is_one_line() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    let name = Path::new(OsStr::from_bytes(b"caf\xe9\nroot\x1b[31m"));
    tree.guest(name);
    let list = tree.at(name).join("apps/vunify/exclude");
    fs::write(list, "/ok\nbad\n").unwrap();
    let line = refuses(
        &tree,
        &[r"conf/caf\xe9\nroot\u{1b}[31m/apps/vunify/exclude:2: "],
    );
    assert!(!line.contains('\u{1b}'), "{line:?}");
}

#[test]
fn a_package_database_that_is_asked_for_has_to_be_there_and_readable() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    tree.value("web/apps/vunify/pkgmgmt-force", "");
    let vdir = tree.place.join("web");
    refuses(
        &tree,
        &[&text(&vdir), "no package database", "remove pkgmgmt-force"],
    );
    // A directory where dpkg has its file.
    let status = vdir.join("var/lib/dpkg/status");
    fs::create_dir_all(&status).unwrap();
    refuses(&tree, &[&text(&status), "is not a regular file"]);

    // Where it is not asked for, the run says so and goes on.
    fs::remove_file(tree.at("web/apps/vunify/pkgmgmt-force")).unwrap();
    let done = output(&mut tree.command(["--protect", "none", "--all"]));
    let error = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains(&text(&status)) && error.contains("patterns alone"),
        "{error}"
    );
    assert!(is_shared(
        &vdir.join("usr/bin/tool"),
        &tree.place.join("mail/usr/bin/tool")
    ));
}

#[test]
fn one_guest_that_is_wrong_stops_a_run_that_names_it_and_no_other() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = well(&filesystem);
    tree.mark("rootless");
    let before = Still::of(&tree.place);
    let done = output(&mut tree.command(["--protect", "none", "-n", "mail", "web"]));
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    before.assert_untouched("a dry run of the others");
    refuses(&tree, &["rootless"]);
}
