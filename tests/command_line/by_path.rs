//! `vserver NAME unify`: path by path against reference guests, and back.

mod random_guests;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use vhashify_testkit::built;
use vhashify_testkit::filesystem::{Filesystem, Kind, on_each};
use vhashify_testkit::program::{json as run_json, output};
use vhashify_testkit::snapshot::{Snapshot, check_store};

use super::still::{Still, refused_untouched};
use super::tree::{Tree, files, is_shared, write};

/// `vserver … NAME unify --state-dir STATE ARGUMENTS…`.
fn unify<I: AsRef<OsStr>>(
    tree: &Tree,
    name: &str,
    arguments: impl IntoIterator<Item = I>,
) -> Command {
    let mut command = Command::new(built::vserver());
    command
        .env_remove("VSERVER_CONFDIR")
        .arg("--config-dir")
        .arg(tree.at(""))
        .args([name, "unify", "--state-dir"])
        .arg(tree.state())
        .args(arguments);
    command
}

/// A run with all well.
fn run(tree: &Tree, name: &str, arguments: &[&str]) -> Value {
    let mut command = unify(tree, name, ["--protect", "none"]);
    command.args(arguments);
    run_json(command)
}

/// Links `of` as the next reference guest of `name`.
fn refer(tree: &Tree, name: &str, number: &str, of: &str) {
    let target = Path::new("../../..").join(of);
    tree.link(format!("{name}/apps/vunify/refserver.{number}"), &target);
}

/// A tree with `web`, whose reference guests are `base` and `mail`, and `other`, which is none.
fn four_guests(filesystem: &Filesystem) -> Tree {
    let tree = Tree::new(filesystem.path());
    for name in ["web", "base", "mail", "other"] {
        tree.guest(name);
    }
    refer(&tree, "web", "00", "base");
    // The name of the link decides, not that of the guest.
    refer(&tree, "web", "01", "mail");
    tree
}

fn shares(tree: &Tree, one: &str, other: &str) -> bool {
    is_shared(&tree.place.join(one), &tree.place.join(other))
}

fn all_files(tree: &Tree) -> Vec<Snapshot> {
    ["web", "base", "mail", "other"]
        .map(|name| files(&tree.place.join(name)))
        .into()
}

fn assert_same(before: &[Snapshot], tree: &Tree, when: &str) {
    for (before, after) in before.iter().zip(all_files(tree)) {
        before.assert_same(&after, when);
    }
}

#[test]
fn a_file_is_shared_with_the_one_at_its_path_and_with_no_other() {
    on_each(|filesystem| {
        let tree = four_guests(filesystem);
        for (name, content) in [
            ("web/usr/all", "in all"),
            ("base/usr/all", "in all"),
            ("mail/usr/all", "in all"),
            ("other/usr/all", "in all"),
            ("web/usr/second", "of web and mail"),
            ("base/usr/second", "of base alone"),
            ("mail/usr/second", "of web and mail"),
            ("web/usr/here", "at two paths"),
            ("base/usr/there", "at two paths"),
            ("web/usr/other", "of web and other"),
            ("other/usr/other", "of web and other"),
            ("base/usr/refs", "of reference guests"),
            ("mail/usr/refs", "of reference guests"),
            ("web/usr/mode", "another mode"),
            ("base/usr/mode", "another mode"),
            ("web/usr/twin1", "twice"),
            ("web/usr/twin2", "twice"),
            ("base/usr/twin1", "twice"),
            ("base/usr/twin2", "twice"),
            ("web/etc/passwd", "left out"),
            ("base/etc/passwd", "left out"),
        ] {
            write(&tree.place, name, content);
        }
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(tree.place.join("web/usr/mode"), mode).unwrap();
        let before = all_files(&tree);

        let report = run(&tree, "web", &[]);
        assert_same(&before, &tree, "after a run");
        assert_eq!(report["guests"], json!(["web", "base", "mail"]));
        assert_eq!(report["files_unified"], 4);
        assert_eq!(report["objects_created"], 4);
        assert!(shares(&tree, "web/usr/all", "base/usr/all"));
        assert!(shares(&tree, "web/usr/second", "mail/usr/second"));
        for twin in ["usr/twin1", "usr/twin2"] {
            assert!(shares(
                &tree,
                &format!("web/{twin}"),
                &format!("base/{twin}")
            ));
        }
        for (one, other) in [
            ("web/usr/all", "mail/usr/all"),
            ("web/usr/all", "other/usr/all"),
            ("web/usr/second", "base/usr/second"),
            ("web/usr/here", "base/usr/there"),
            ("web/usr/other", "other/usr/other"),
            ("base/usr/refs", "mail/usr/refs"),
            ("web/usr/mode", "base/usr/mode"),
            ("web/usr/twin1", "web/usr/twin2"),
            ("web/etc/passwd", "base/etc/passwd"),
        ] {
            assert!(!shares(&tree, one, other), "{one} {other}");
        }
        assert_eq!(check_store(&tree.store()).len(), 4);
        assert_eq!(run(&tree, "web", &[])["files_unified"], 0);
        run_json(tree.command(["verify", "--deep"]));
    });
}

#[test]
fn inv3_a_link_group_is_shared_whole() {
    on_each(|filesystem| {
        let tree = four_guests(filesystem);
        for name in ["web/usr/x", "base/usr/x", "base/usr/y", "mail/opt/z"] {
            write(&tree.place, name, "the same");
        }
        let web = tree.place.join("web");
        fs::hard_link(web.join("usr/x"), web.join("usr/y")).unwrap();
        // Not at the path of any reference guest, and a name of what is.
        fs::create_dir(web.join("bin")).unwrap();
        fs::hard_link(web.join("usr/x"), web.join("bin/w")).unwrap();
        let before = all_files(&tree);
        assert_eq!(run(&tree, "web", &["/usr/y"])["files_unified"], 3);
        assert_same(&before, &tree, "after a run");
        assert!(shares(&tree, "web/usr/x", "web/bin/w"));
        assert!(shares(&tree, "web/usr/x", "base/usr/y"));
        assert!(!shares(&tree, "web/usr/x", "base/usr/x"));
        // The guest has the object already.
        assert_eq!(run(&tree, "web", &[])["files_unified"], 0);
        assert_same(&before, &tree, "after a second run");
    });
}

#[test]
fn an_object_is_joined_where_a_reference_guest_has_it_at_the_path_and_nowhere_else() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = four_guests(&filesystem);
    // `mail` and `other` share one at another path, `base` and `other` one at the same.
    for (name, content) in [
        ("mail/opt/far", "at another path"),
        ("other/opt/far", "at another path"),
        ("base/usr/near", "at the same path"),
        ("other/opt/near", "at the same path"),
    ] {
        write(&tree.place, name, content);
    }
    assert_eq!(tree.run(["base", "mail", "other"])["files_unified"], 2);
    for (name, content) in [
        ("web/usr/far", "at another path"),
        ("base/usr/far", "at another path"),
        ("web/usr/near", "at the same path"),
        ("web/usr/alone", "at the same path"),
    ] {
        write(&tree.place, name, content);
    }
    let before = all_files(&tree);
    let report = run(&tree, "web", &[]);
    assert_same(&before, &tree, "after a run");
    assert_eq!(report["files_unified"], 2);
    assert_eq!(report["objects_created"], 1);
    assert!(shares(&tree, "web/usr/near", "base/usr/near"));
    assert!(shares(&tree, "web/usr/far", "base/usr/far"));
    assert!(!shares(&tree, "web/usr/far", "mail/opt/far"));
    assert!(!shares(&tree, "web/usr/alone", "base/usr/near"));
    assert_eq!(check_store(&tree.store()).len(), 3);
}

#[test]
fn a_dry_run_says_what_a_run_does_and_changes_nothing() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = four_guests(&filesystem);
    for name in ["web", "base"] {
        write(&tree.place, format!("{name}/usr/tool"), "the same");
    }
    let before = Still::of(filesystem.path());
    let foretold = run(&tree, "web", &["-n"]);
    before.assert_untouched("dry run");
    let report = run(&tree, "web", &[]);
    assert_eq!(foretold["dry_run"], true);
    for number in ["files_unified", "objects_created", "bytes_saved"] {
        assert_eq!(foretold[number], report[number], "{number}");
        assert!(report[number].as_u64().unwrap() > 0, "{number}");
    }

    let before = Still::of(filesystem.path());
    let foretold = run_json(unify(&tree, "web", ["-R", "--dry-run"]));
    before.assert_untouched("dry run backwards");
    let undone = run_json(unify(&tree, "web", ["-R"]));
    assert_eq!(foretold["dry_run"], true);
    assert_eq!(undone["dry_run"], false);
    for number in ["files_deunified", "bytes_copied"] {
        assert_eq!(foretold[number], undone[number], "{number}");
        assert!(undone[number].as_u64().unwrap() > 0, "{number}");
    }
}

#[test]
fn paths_confine_both_directions() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = four_guests(&filesystem);
    let names = ["usr/bin/x", "usr/bin/xy", "usr/lib/y", "opt/z"];
    for name in names {
        for guest in ["web", "base"] {
            write(&tree.place, format!("{guest}/{name}"), name);
        }
    }
    let before = all_files(&tree);
    let shared = || {
        let is_shared =
            |name: &&str| shares(&tree, &format!("web/{name}"), &format!("base/{name}"));
        names.into_iter().filter(is_shared).collect::<Vec<_>>()
    };
    run(&tree, "web", &["/usr/bin/x", "opt"]);
    assert_eq!(shared(), ["usr/bin/x", "opt/z"]);
    run(&tree, "web", &["usr"]);
    assert_eq!(shared(), names);
    run_json(unify(&tree, "web", ["-R", "/usr/bin"]));
    assert_eq!(shared(), ["usr/lib/y", "opt/z"]);
    run_json(unify(&tree, "web", ["--undo", "usr/lib/y"]));
    assert_eq!(shared(), ["opt/z"]);
    run_json(unify(&tree, "web", ["-R"]));
    assert!(shared().is_empty());
    assert_same(&before, &tree, "after all");
    run(&tree, "web", &["/"]);
    assert_eq!(shared(), names, "and again, with the objects of the first");
    assert_same(&before, &tree, "after all");
}

#[test]
fn without_a_reference_guest_it_is_hashify_and_says_so() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = Tree::new(filesystem.path());
    for (guest, name) in [("web", "usr/here"), ("mail", "usr/there"), ("old", "opt/x")] {
        write(&tree.guest(guest), name, "the same");
    }
    tree.run(["mail", "old"]);
    let mut command = unify(&tree, "web", ["--protect", "none"]);
    let done = output(&mut command);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("web has no reference guest"), "{said}");
    assert!(shares(&tree, "web/usr/here", "mail/usr/there"));
    run_json(unify(&tree, "web", ["-R"]));
    assert!(!shares(&tree, "web/usr/here", "mail/usr/there"));

    let mut confined = unify(&tree, "web", ["--protect", "none", "/usr"]);
    let words = ["/usr needs a reference guest", "refserver.00"];
    refused_untouched(filesystem.path(), &mut confined, 2, &words);
}

#[test]
fn bad_paths_are_refused() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = four_guests(&filesystem);
    for name in ["web", "base"] {
        write(&tree.place, format!("{name}/usr/tool"), "the same");
    }
    symlink("/", tree.place.join("web/out")).unwrap();
    for (path, words) in [
        ("../base/usr", "leads upwards"),
        ("/usr/../../base", "leads upwards"),
        ("/no/such/file", "is not in the guest"),
        ("/out/etc", "is not in the guest"),
    ] {
        for direction in [&["--protect", "none"][..], &["-R"]] {
            let mut command = unify(&tree, "web", direction);
            command.arg(path);
            refused_untouched(filesystem.path(), &mut command, 2, &[path, words]);
        }
    }
}

#[test]
fn bad_reference_guests_are_refused_by_name() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let elsewhere = Filesystem::new(Kind::Ext4);
    let tree = four_guests(&filesystem);
    for name in ["web", "base"] {
        write(&tree.place, format!("{name}/usr/tool"), "the same");
    }
    // A guest in all but its place.
    fs::create_dir_all(tree.place.join("beside/apps/vunify")).unwrap();
    fs::create_dir_all(tree.at("bare")).unwrap();
    tree.link("bare/vdir", &tree.place.join("other"));
    tree.mark("far");
    tree.link("far/vdir", elsewhere.path());
    tree.mark("homeless");
    tree.value("file", "");
    let entry = tree.at("web/apps/vunify/refserver.02");
    let name = entry.to_str().unwrap();
    for (target, words) in [
        ("../../../nobody", &[name, "where nothing is"][..]),
        ("../../../web", &[name, "is the guest itself"]),
        ("../..", &[name, "is the guest itself"]),
        ("../../../../beside", &[name, "is no guest of", "ln -sfn"]),
        ("/", &[name, "is no guest of"]),
        ("../../../.defaults", &[name, "is no guest of"]),
        ("../../../base/apps", &[name, "is no guest of"]),
        ("../../../file", &[name, "is not a directory"]),
        ("refserver.02", &[name, "where nothing is"]),
        ("../../../bare", &["bare is not marked", "mkdir -p"]),
        ("../../../homeless", &["homeless has no root directory"]),
        ("../../../far", &["far", "is on another filesystem"]),
    ] {
        symlink(target, &entry).unwrap();
        for direction in [&["--protect", "none"][..], &["-n"]] {
            let mut command = unify(&tree, "web", direction);
            refused_untouched(filesystem.path(), &mut command, 2, words);
        }
        fs::remove_file(&entry).unwrap();
    }
    // One guest by two links is one guest, and what does not begin with refserver. is none.
    symlink("../../../base", &entry).unwrap();
    symlink("nowhere", tree.at("web/apps/vunify/reference.00")).unwrap();
    let report = run(&tree, "web", &[]);
    assert_eq!(report["guests"], json!(["web", "base", "mail"]));
    assert_eq!(report["files_unified"], 1);
}

#[test]
fn what_is_typed_wrongly_is_status_two_and_help_is_not() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = four_guests(&filesystem);
    let before = Still::of(filesystem.path());
    for arguments in [
        &["-R", "--protect", "none"][..],
        &["-R", "--refresh"],
        &["--all"],
        &["--manually"],
        &["--protect", "hope"],
    ] {
        let done = output(&mut unify(&tree, "web", arguments));
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("error: "), "{said}");
    }
    let help = output(&mut unify(&tree, "web", ["--help"]));
    assert!(help.status.success());
    let said = String::from_utf8(help.stdout).unwrap();
    for word in [
        "-R, --undo",
        "--dry-run",
        "refserver.*",
        "--format",
        "[PATH]",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    before.assert_untouched("nothing was asked for");
}
