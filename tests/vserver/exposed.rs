//! Users of the host do not reach the files of guests: the directory of all guests is made closed, and what is open is
//! told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use vhashify_testkit::filesystem::command;
use vhashify_testkit::skip;

use super::host::Host;

/// A user of the host who is nobody there.
const USER: &str = "61234";

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

/// A directory with a program that sleeps, and one that is root's for whoever runs it.
fn make_tree(tree: &Path) {
    for below in ["bin", "dev", "proc", "sys"] {
        fs::create_dir_all(tree.join(below)).unwrap();
    }
    let source = tree.join("bin/sleep.c");
    fs::write(
        &source,
        "#include <stdio.h>\n#include <unistd.h>\n\
         int main(int n, char **w) { if (n == 1) return printf(\"%d\\n\", geteuid()), 0; sleep(1000); }",
    )
    .unwrap();
    let program = tree.join("bin/sleep");
    let mut compile = Command::new("cc");
    command(
        compile
            .args(["-static", "-w", "-o"])
            .args([&program, &source]),
    );
    set_mode(&program, 0o4755);
}

/// Who a user of the host is by that program: nothing where the way to it is closed.
fn by_program(program: &Path) -> String {
    let mut run = Command::new("setpriv");
    run.args(["--reuid", USER, "--regid", USER, "--clear-groups", "env"]);
    let output = run.arg(program).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_directory_of_guests_is_made_closed_and_a_warning_names_an_open_one() {
    // Where every user gets to, unlike what Cargo has made.
    let host = Host::below(Path::new("/var/tmp"));
    set_mode(&host.at(""), 0o755);
    let tree = host.at("tree");
    make_tree(&tree);
    if by_program(&tree.join("bin/sleep")) != "0\n" {
        return skip("no setuid program works in /var/tmp");
    }
    let base = host.at("above/base");
    let root = format!("--rootdir={}", base.display());
    let source = tree.to_str().unwrap();
    let build = |name: &str| {
        let words = [name, "build", "-m", "rsync", "--initstyle=plain", &root];
        let output = host.run(&[&words[..], &["--", "--source", source]].concat());
        assert!(output.status.success(), "{output:?}");
        host.set(name, "apps/init/cmd.start", "/bin/sleep\n1\n");
        host.give_own_context(name);
        String::from_utf8(output.stderr).unwrap()
    };
    let start = |name: &str| {
        let output = host.run(&[name, "start"]);
        assert!(output.status.success(), "{output:?}");
        host.ok(&[name, "stop"]);
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(build("web"), "");
    // The guest's own users must be able to enter its root directory.
    let modes = [&base, &base.join("web"), &host.at("above")].map(|path| mode(path));
    assert_eq!(modes, [0o700, 0o755, 0o755]);
    assert_eq!(by_program(&base.join("web/bin/sleep")), "");
    assert_eq!(start("web"), "");
    // An administrator's directory stays as it is.
    set_mode(&base, 0o711);
    assert_eq!(by_program(&base.join("web/bin/sleep")), "0\n");
    let warning = format!("chmod 0700 {}", base.display());
    let said = build("mail");
    assert!(said.contains(&warning), "{said}");
    assert_eq!(mode(&base), 0o711);
    let said = start("web");
    assert!(said.contains(&warning), "{said}");
    set_mode(&host.at("above"), 0o700);
    assert_eq!(start("web"), "");
}
