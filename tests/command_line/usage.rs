//! What can be typed wrongly: status 2, nothing on standard output, nothing changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use vhashify_testkit::filesystem::{Filesystem, Kind};
use vhashify_testkit::program::{Host, output, vhashify};

use super::still::{Still, refused_untouched};
use super::tree::{Tree, write};

#[test]
fn what_does_not_go_together_is_refused_in_one_line() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = Tree::new(filesystem.path());
    let web = tree.guest("web");
    write(&web, "usr/bin/tool", "the same");
    let root = web.to_str().unwrap();
    for (arguments, words) in [
        (&[][..], "name them, or say --all"),
        (&["--protect", "none"], "name them, or say --all"),
        (&["--manually"], "name them, or say --all"),
        (&["--all", "web"], "not both"),
        (&["--all", "gc"], "do not go with a command"),
        (&["-n", "gc"], "do not go with a command"),
        (&["--protect", "none", "gc"], "do not go with a command"),
        (&["--refresh", "report"], "do not go with a command"),
        (&["--manually", root], "--destination STORE"),
        (&["deunify", "--manually", root], "--destination STORE"),
        (
            &["deunify", "web", "/no/such/file"],
            "/no/such/file is not in the guest",
        ),
        (
            &["deunify", "web", "../mail/file"],
            "../mail/file leads upwards",
        ),
        (
            &["deunify", "web", "/usr/../../x"],
            "/usr/../../x leads upwards",
        ),
    ] {
        let mut command = tree.command(arguments);
        refused_untouched(filesystem.path(), &mut command, 2, &[words]);
    }
}

#[test]
fn a_tree_without_marked_guests_is_said_and_not_reported_as_nothing() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = Tree::new(filesystem.path());
    for arguments in [&["--all"][..], &["report"]] {
        let mut command = tree.command(arguments);
        let words = ["no guest that is marked", "mkdir -p"];
        refused_untouched(filesystem.path(), &mut command, 2, &words);
    }
}

#[test]
fn what_the_parser_does_not_know_is_status_two_as_well() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = Tree::new(filesystem.path());
    write(&tree.guest("web"), "usr/bin/tool", "the same");
    let before = Still::of(filesystem.path());
    for (arguments, word) in [
        (&["--bogus"][..], "--bogus"),
        (&["--all", "--manually"], "--manually"),
        (&["--exclude-from", "x", "web"], "--manually"),
        (&["-q", "-v", "--all"], "--verbose"),
        (&["--all", "--protect", "hope"], "hope"),
        (&["--all", "--format", "xml"], "xml"),
        (&["--all", "--jobs", "0"], "--jobs"),
        (&["--all", "--jobs", "many"], "--jobs"),
        (&["--all", "--min-size", "-1"], "-1"),
        (&["--all", "--min-size", "1k"], "1k"),
        (&["--all", "--reread-after", "never"], "never"),
        (&["--all", "--progress", "sometimes"], "sometimes"),
        (&["--all", "--color", "rainbow"], "rainbow"),
        (&["--all", "--state-dir"], "--state-dir"),
        (&["deunify"], "GUEST"),
        (&["gc", "web"], "web"),
        (&["verify", "--shallow"], "--shallow"),
    ] {
        let done = output(&mut tree.command(arguments));
        let error = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {error}");
        assert_eq!(done.stdout, b"", "{arguments:?}");
        assert!(
            error.starts_with("error: ") && error.contains(word),
            "{arguments:?}: {error}"
        );
        before.assert_untouched(&format!("{arguments:?}"));
    }
}

#[test]
fn a_name_that_cannot_be_a_guests_never_leaves_the_tree() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = Tree::new(filesystem.path());
    write(&tree.guest("web"), "usr/bin/tool", "the same");
    fs::create_dir(tree.at("bare")).unwrap();
    fs::write(tree.at("file"), "").unwrap();
    // Beside the tree: what a name that leaves it would find.
    fs::create_dir_all(filesystem.path().join("outside/apps/vunify")).unwrap();
    let top = tree
        .at("")
        .to_str()
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let unknown = format!("mkdir {top}/nobody");
    let bare = format!("mkdir -p {top}/bare/apps/vunify");
    let file = format!("{top}/file is not a directory");
    for (name, words) in [
        ("..", &["begins with a dot", top.as_str()][..]),
        (".", &["begins with a dot"]),
        (".defaults", &["begins with a dot"]),
        ("../outside", &["begins with a dot"]),
        ("web/../../outside", &["holds a slash"]),
        ("web/", &["holds a slash"]),
        (web_path(&tree).as_str(), &["holds a slash"]),
        ("", &["is empty"]),
        ("nobody", &["there is no guest nobody", unknown.as_str()]),
        ("bare", &["not marked for unification", bare.as_str()]),
        ("file", &[file.as_str()]),
    ] {
        let mut run = tree.command(["--protect", "none", "web", name]);
        refused_untouched(filesystem.path(), &mut run, 2, words);
        let mut deunify = tree.command(["deunify", name]);
        refused_untouched(filesystem.path(), &mut deunify, 2, words);
    }
}

fn web_path(tree: &Tree) -> String {
    tree.at("web").to_str().unwrap().to_owned()
}

#[test]
fn whoever_is_not_root_is_told_so() {
    // Below /tmp, because nobody else can reach the directory of the build.
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let program = place.path().join("vhashify");
    fs::copy(vhashify().get_program(), &program).unwrap();
    let host = Host::new(place.path(), 2);
    for guest in &host.guests {
        write(guest, "usr/bin/tool", "the same");
    }
    let guest = host.guests[0].to_str().unwrap();
    for arguments in [
        &["--protect", "none", "--manually", guest][..],
        &["-n", "--manually", guest],
        &["gc"],
        &["verify"],
        &["deunify", "--manually", guest],
        &["report"],
    ] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
            .arg(&program)
            .args(host.command(arguments).get_args());
        refused_untouched(place.path(), &mut command, 2, &["run it as root"]);
    }
}
