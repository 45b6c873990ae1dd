//! The configuration tree decides which guests are unified, into which store, and what is left out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::program::{all_well, json as run_json, vhashify};
use vhashify_testkit::snapshot::check_store;

use super::tree::{Tree, is_shared, write};

/// A place with guests `web` and `mail`, each with the same `/usr/bin/tool`.
fn two_guests(filesystem: &Filesystem) -> Tree {
    let tree = Tree::new(filesystem.path());
    for name in ["web", "mail"] {
        write(&tree.guest(name), "usr/bin/tool", "the same");
    }
    tree
}

fn is_unified(tree: &Tree, name: &str) -> bool {
    is_shared(
        &tree.place.join("web").join(name),
        &tree.place.join("mail").join(name),
    )
}

#[test]
fn all_means_every_marked_guest_and_no_other() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    let third = tree.guest("third");
    write(&third, "usr/bin/tool", "the same");
    fs::remove_dir_all(tree.at("third/apps")).unwrap();
    let hidden = tree.guest(".hidden");
    write(&hidden, "usr/bin/tool", "the same");

    let report = tree.run(["--all"]);
    assert_eq!(report["guests"], json!(["mail", "web"]));
    assert!(is_unified(&tree, "usr/bin/tool"));
    for other in [third, hidden] {
        assert!(!is_shared(
            &other.join("usr/bin/tool"),
            &tree.place.join("web/usr/bin/tool")
        ));
    }
    assert_eq!(check_store(&tree.store()).len(), 1);
}

#[test]
fn guests_are_named_each_once() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    let third = write(&tree.guest("third"), "usr/bin/tool", "the same");

    let report = tree.run(["web", "mail", "web"]);
    assert_eq!(report["guests"], json!(["web", "mail"]));
    assert_eq!(report["files_unified"], 1);
    assert!(is_unified(&tree, "usr/bin/tool"));
    assert!(!is_shared(&third, &tree.place.join("web/usr/bin/tool")));
}

#[test]
fn a_guest_that_is_called_like_a_command_is_named_after_two_dashes() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    let gc = write(&tree.guest("gc"), "usr/bin/tool", "the same");
    let command = tree.command(["--protect", "none", "--format", "json", "--", "gc", "web"]);
    assert_eq!(all_well(command)["guests"], json!(["gc", "web"]));
    assert!(is_shared(&gc, &tree.place.join("web/usr/bin/tool")));
}

#[test]
fn the_tree_is_named_by_option_or_else_by_the_environment() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    let run = |variable: &Path, option: Option<&Path>| -> Value {
        let mut command = vhashify();
        command.env("VSERVER_CONFDIR", variable);
        if let Some(option) = option {
            command.arg("--config-dir").arg(option);
        }
        command.args(["--protect", "none", "-n", "--all"]);
        command.arg("--state-dir").arg(tree.state());
        run_json(command)
    };
    assert_eq!(run(&tree.at(""), None)["guests"], json!(["mail", "web"]));
    let nowhere = tree.place.join("nowhere");
    assert_eq!(
        run(&nowhere, Some(&tree.at("")))["guests"],
        json!(["mail", "web"])
    );
}

#[test]
fn a_guest_has_its_own_stores_instead_of_the_defaults() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    let own = tree.place.join("own");
    fs::create_dir(&own).unwrap();
    for name in ["web", "mail"] {
        tree.link(format!("{name}/apps/vunify/hash/here"), &own);
    }
    tree.run(["--all"]);
    assert!(is_unified(&tree, "usr/bin/tool"));
    assert_eq!(check_store(&own).len(), 1);
    assert_eq!(check_store(&tree.store()).len(), 0);
}

#[test]
fn a_store_may_be_a_directory_of_the_tree() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    let entry = tree.at(".defaults/apps/vunify/hash/root");
    fs::remove_file(&entry).unwrap();
    fs::create_dir(&entry).unwrap();
    tree.run(["--all"]);
    assert!(is_unified(&tree, "usr/bin/tool"));
    assert_eq!(check_store(&entry).len(), 1);
}

#[test]
fn destination_goes_before_the_stores_of_the_tree() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    let other = tree.place.join("other");
    fs::create_dir(&other).unwrap();
    tree.run(["--all", "--destination", other.to_str().unwrap()]);
    assert!(is_unified(&tree, "usr/bin/tool"));
    assert_eq!(check_store(&other).len(), 1);
    assert_eq!(check_store(&tree.store()).len(), 0);
}

#[test]
fn guests_without_a_vdir_lie_in_vdirbase() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    for name in ["web", "mail"] {
        fs::remove_file(tree.at(name).join("vdir")).unwrap();
    }
    tree.link(".defaults/vdirbase", &tree.place);
    assert_eq!(tree.run(["--all"])["files_unified"], 1);
    assert!(is_unified(&tree, "usr/bin/tool"));
}

#[test]
fn one_run_over_two_filesystems_uses_the_store_of_each() {
    let here = Filesystem::new(Kind::Ext4);
    let there = Filesystem::new(Kind::Xfs);
    let tree = two_guests(&here);
    let second = there.path().join("hash");
    fs::create_dir(&second).unwrap();
    tree.link(".defaults/apps/vunify/hash/second", &second);
    let mut far = Vec::new();
    for name in ["far0", "far1"] {
        let vdir = there.path().join(name);
        far.push(write(&vdir, "usr/bin/tool", "the same"));
        tree.mark(name);
        tree.link(format!("{name}/vdir"), &vdir);
    }

    let report = tree.run(["--all"]);
    assert_eq!(report["files_unified"], 2, "one on each filesystem");
    assert_eq!(report["objects_created"], 2);
    assert_eq!(report["guests"].as_array().unwrap().len(), 4);
    assert!(is_unified(&tree, "usr/bin/tool"));
    assert!(is_shared(&far[0], &far[1]));
    assert_eq!(check_store(&tree.store()).len(), 1);
    assert_eq!(check_store(&second).len(), 1);

    // The other commands go over both, too.
    let verified = run_json(tree.command(["verify", "--deep"]));
    assert_eq!(verified["objects"], 2);
    let costs = run_json(tree.command(["report"]));
    assert_eq!(costs["stores"].as_array().unwrap().len(), 2);
    run_json(tree.command(["deunify", "web"]));
    run_json(tree.command(["deunify", "mail"]));
    assert!(!is_unified(&tree, "usr/bin/tool"));
    assert_eq!(run_json(tree.command(["gc"]))["objects_removed"], 1);
    assert_eq!(check_store(&second).len(), 1, "still linked over there");
}

#[test]
fn without_a_list_the_builtin_one_leaves_host_specific_data_alone() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    let alone = [
        "etc/hosts",
        "var/log/messages",
        "home/me/notes",
        "root/.profile",
        "run/pid",
        "tmp/x",
    ];
    for vdir in ["web", "mail"].map(|name| tree.place.join(name)) {
        for name in alone {
            write(&vdir, name, name);
        }
    }
    let report = tree.run(["--all"]);
    assert!(is_unified(&tree, "usr/bin/tool"));
    for name in alone {
        assert!(!is_unified(&tree, name), "{name}");
    }
    assert!(report["skipped"]["excluded"].as_u64().unwrap() > 0);
}

#[test]
fn a_default_list_replaces_the_builtin_one_and_a_guests_own_replaces_both() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    for vdir in ["web", "mail"].map(|name| tree.place.join(name)) {
        for name in ["etc/hosts", "opt/default/x", "opt/own/x", "opt/own/taken"] {
            write(&vdir, name, name);
        }
    }
    tree.value(
        ".defaults/apps/vunify/exclude",
        "# the host's\n/opt/default\n",
    );
    for name in ["web", "mail"] {
        tree.value(
            &format!("{name}/apps/vunify/exclude"),
            "+/opt/own/taken\n-/opt/own/*\n~/etc\n",
        );
    }
    tree.run(["--all"]);
    assert!(
        is_unified(&tree, "opt/default/x"),
        "not in the guests' own list"
    );
    assert!(is_unified(&tree, "opt/own/taken"), "the first line decides");
    assert!(!is_unified(&tree, "opt/own/x"));
    assert!(is_unified(&tree, "etc/hosts"), "~ looks below the entry");

    for name in ["web", "mail"] {
        fs::remove_file(tree.at(name).join("apps/vunify/exclude")).unwrap();
        write(&tree.place.join(name), "opt/default/y", "y");
        write(&tree.place.join(name), "etc/later", "later");
    }
    tree.run(["--all"]);
    assert!(!is_unified(&tree, "opt/default/y"));
    assert!(
        is_unified(&tree, "etc/later"),
        "the default list goes before the built-in one"
    );
}

#[test]
fn manually_excludes_nothing_unless_a_file_says_so() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    for vdir in ["web", "mail"].map(|name| tree.place.join(name)) {
        write(&vdir, "etc/hosts", "hosts");
        write(&vdir, "var/lib/data", "data");
    }
    let roots = ["web", "mail"].map(|name| tree.place.join(name));
    let patterns = tree.place.join("patterns");
    fs::write(&patterns, "/etc\n").unwrap();
    let run = |options: &[&str]| {
        let mut command = vhashify();
        command.args(["--protect", "none", "--manually", "--destination"]);
        command.arg(tree.store()).args(options).args(&roots);
        command.arg("--state-dir").arg(tree.state());
        run_json(command)
    };
    run(&["--exclude-from", patterns.to_str().unwrap()]);
    assert!(!is_unified(&tree, "etc/hosts"));
    assert!(is_unified(&tree, "var/lib/data"));
    run(&[]);
    assert!(is_unified(&tree, "etc/hosts"));
}

/// A dpkg database that calls `/opt/tool.conf` a configuration file.
fn with_package_database(tree: &Tree) {
    let status = "Package: tool\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\
                  Conffiles:\n /opt/tool.conf 0123456789abcdef0123456789abcdef\n\n";
    for vdir in ["web", "mail"].map(|name| tree.place.join(name)) {
        write(&vdir, "var/lib/dpkg/status", status);
        write(&vdir, "opt/tool.conf", "as delivered");
    }
}

#[test]
fn configuration_files_of_packages_are_left_out_unless_they_are_to_be_ignored() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    with_package_database(&tree);
    tree.run(["--all"]);
    assert!(is_unified(&tree, "usr/bin/tool"));
    assert!(!is_unified(&tree, "opt/tool.conf"));

    tree.value(".defaults/apps/vunify/pkgmgmt-ignore", "");
    // The guest's own word goes before the default.
    tree.value("web/apps/vunify/pkgmgmt-force", "");
    tree.run(["--all"]);
    assert!(!is_unified(&tree, "opt/tool.conf"));

    fs::remove_file(tree.at("web/apps/vunify/pkgmgmt-force")).unwrap();
    tree.run(["--all"]);
    assert!(is_unified(&tree, "opt/tool.conf"));
}

#[test]
fn a_guest_reached_through_links_is_the_same_guest() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let tree = two_guests(&filesystem);
    let detour = tree.place.join("detour");
    symlink(tree.place.join("web"), &detour).unwrap();
    fs::remove_file(tree.at("web/vdir")).unwrap();
    tree.link("web/vdir", &detour);
    tree.run(["--all"]);
    assert!(is_unified(&tree, "usr/bin/tool"));
}

#[test]
fn a_subvolume_with_its_own_store_is_unified() {
    let filesystem = Filesystem::new(Kind::Btrfs);
    // A subvolume has a device number of its own, so it needs a store of its own.
    let subvolume = filesystem.path().join("volume");
    command(
        std::process::Command::new("btrfs")
            .args(["-q", "subvolume", "create"])
            .arg(&subvolume),
    );
    let tree = Tree::new(&subvolume);
    for name in ["web", "mail"] {
        write(&tree.guest(name), "usr/bin/tool", "the same");
    }
    tree.run(["--all"]);
    assert!(is_unified(&tree, "usr/bin/tool"));
}
