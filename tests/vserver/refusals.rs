//! Bad input: one clear line, the right exit status, and no half-started guest.

use std::fs;
use std::os::unix::fs::symlink;

use super::host::Host;

#[test]
fn a_name_is_one_visible_directory_of_the_tree() {
    let host = Host::new();
    let long = "n".repeat(300);
    for name in ["..", ".", "a/b", "/etc", "a\nb", ".defaults", long.as_str()] {
        for command in ["start", "stop", "running", "status", "enter"] {
            let line = host.refused(&[name, command], 2);
            assert!(line.contains("is not a guest's name"), "{line}");
        }
    }
    let line = host.refused(&["nobody", "start"], 2);
    assert!(line.contains("there is no guest nobody"), "{line}");
    assert!(!host.at("state").exists());
}

#[test]
fn settings_that_mean_nothing_are_named() {
    let host = Host::new();
    host.sleeper("web");
    for (setting, value, said) in [
        ("apps/init/style", "upstart\n", "upstart"),
        ("apps/init/killseq", "TERM NEVER\n", "NEVER"),
        ("apps/init/cmd.start", "", "no program"),
        ("context", "1\n", "65535"),
        ("context", "many\n", "many"),
        ("bcapabilities", "CAP_FLY\n", "CAP_FLY"),
        ("fstab", "none tmp tmpfs\n", "line 1"),
        ("interfaces/0/ip", "10.0.0.256\n", "10.0.0.256"),
        ("umask", "888\n", "octal"),
        ("nice", "lots\n", "lots"),
        ("rlimits/nofile", "few\n", "few"),
    ] {
        let path = host.at("conf/web").join(setting);
        let before = fs::read_to_string(&path).ok();
        host.set("web", setting, value);
        let line = host.refused(&["web", "start"], 2);
        assert!(line.contains(said) && line.contains(setting), "{line}");
        assert!(!host.at("state/web/guest.json").exists());
        match before {
            Some(before) => host.set("web", setting, &before),
            None => fs::remove_file(&path).unwrap(),
        }
        drop(fs::remove_dir_all(host.at("conf/web/interfaces")));
    }
    host.ok(&["web", "start"]);
}

#[test]
fn what_has_no_effect_is_a_warning_by_name() {
    let host = Host::new();
    host.sleeper("web");
    for (setting, value) in [("ccapabilities", "mount\n"), ("colour", "green\n")] {
        host.set("web", setting, value);
    }
    let output = host.run(&["web", "start"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("web/ccapabilities has no effect"), "{said}");
    assert!(said.contains("web/colour is no setting"), "{said}");
    host.ok(&["web", "stop"]);
    let output = host.run(&["--silent", "web", "start"]);
    assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
}

#[test]
fn a_context_number_has_one_guest() {
    let host = Host::new();
    for name in ["web", "mail"] {
        host.sleeper(name);
        host.set(name, "context", "1234\n");
    }
    host.ok(&["web", "start"]);
    assert_eq!(host.context("web"), 1234);
    let line = host.refused(&["mail", "start"], 1);
    assert!(line.contains("1234") && line.contains("in use"), "{line}");
    assert!(!host.is_running("mail") && host.is_running("web"));
    host.ok(&["web", "stop"]);
    host.ok(&["mail", "start"]);
}

#[test]
fn a_vdir_is_there_and_nobody_elses() {
    let host = Host::new();
    host.sleeper("web");
    for (name, target) in [
        ("shared", host.vdir("web")),
        ("inner", host.vdir("web").join("srv")),
        ("host", "/".into()),
    ] {
        host.set(name, "apps/init/cmd.start", "/bin/sleep\n9\n");
        symlink(target, host.at("conf").join(name).join("vdir")).unwrap();
        let line = host.refused(&[name, "start"], 1);
        assert!(line.contains("cannot be used"), "{line}");
    }
    host.set("lost", "apps/init/cmd.start", "/bin/sleep\n9\n");
    symlink(host.vdir("lost"), host.at("conf/lost/vdir")).unwrap();
    let line = host.refused(&["lost", "start"], 2);
    assert!(line.contains("where nothing is"), "{line}");
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let host = Host::new();
    host.guest("web", &["/bin/no-such-init"]);
    host.set("web", "context", "1235\n");
    let line = host.refused(&["web", "start"], 1);
    assert!(line.contains("/bin/no-such-init"), "{line}");
    host.assert_nothing_is_left("web", 1235);
    host.guest("none", &[]);
    let line = host.refused(&["none", "start"], 1);
    assert!(
        line.contains("/sbin/init") && line.contains("cmd.start"),
        "{line}"
    );
    host.set("web", "apps/init/cmd.start", "/bin/sleep\n1000\n");
    host.set("web", "cgroup/no.such.file", "1\n");
    let line = host.refused(&["web", "start"], 1);
    assert!(line.contains("no.such.file"), "{line}");
    host.assert_nothing_is_left("web", 1235);
}

#[test]
fn hooks_run_in_order_and_one_that_fails_leaves_no_guest() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    host.sleeper("web");
    host.set("web", "context", "1236\n");
    let log = host.at("log");
    let hook = |guest: &str, stage: &str, last: &str| {
        let text = format!(
            "#!/bin/sh\necho $1 $2 $VSERVER_NAME >> {}\n{last}\n",
            log.display()
        );
        host.set(guest, &format!("scripts/{stage}"), &text);
        let path = host.at("conf").join(guest).join("scripts").join(stage);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let stages = ["prepre-start", "pre-start", "post-start", "postpost-start"];
    let stopping = ["prepre-stop", "pre-stop", "post-stop", "postpost-stop"];
    for stage in stages.iter().chain(&stopping) {
        hook("web", stage, "");
    }
    hook("web", "pre-start.d/10-more", "");
    hook(".defaults", "pre-start", "");
    host.ok(&["web", "start"]);
    host.ok(&["web", "stop"]);
    let told = fs::read_to_string(&log).unwrap();
    let told: Vec<&str> = told
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let mut all = vec!["prepre-start", "pre-start", "pre-start", "pre-start"];
    all.extend(["post-start", "postpost-start"]);
    all.extend(stopping);
    assert_eq!(told, all);
    for stage in stages {
        hook("web", stage, "exit 3");
        let line = host.refused(&["web", "start"], 1);
        assert!(
            line.contains(stage) && line.contains("exit status: 3"),
            "{line}"
        );
        host.assert_nothing_is_left("web", 1236);
        hook("web", stage, "");
    }
    hook("web", "pre-stop", "exit 4");
    host.ok(&["web", "start"]);
    let line = host.refused(&["web", "stop"], 1);
    assert!(line.contains("pre-stop"), "{line}");
    host.assert_nothing_is_left("web", 1236);
}
