//! Old-style configurations: read as data, or refused by line.

use std::fs;

use vhashify_testkit::filesystem::command;

use super::host::{Host, template};

/// Makes a root directory, without a configuration.
fn root_of(host: &Host, name: &str) -> String {
    let vdir = host.vdir(name);
    command(std::process::Command::new("cp").args([
        "-al".as_ref(),
        template("alpha"),
        vdir.as_path(),
    ]));
    format!("--rootdir={}", host.at("vdirs").display())
}

const OLD: &str = r#"
if [ "$PROFILE" = "" ] ; then
	PROFILE=prod
fi
case $PROFILE in
prod)
	IPROOT="eth0:10.99.8.2"
	S_HOSTNAME=www.example.org
	;;
backup)
	IPROOT="10.99.8.3"
	S_HOSTNAME=spare
	;;
esac
ONBOOT=yes
S_NICE=3
S_FLAGS="lock nproc"
ULIMIT="-HS -u 60"
S_CAPS="CAP_NET_RAW"
S_CONTEXT=1239
"#;

#[test]
fn an_old_guest_starts_as_it_was_configured() {
    let host = Host::new();
    let root = root_of(&host, "web");
    fs::write(host.at("conf/web.conf"), OLD).unwrap();
    assert_eq!(host.ok(&["--silent", "web", "import", &root]), "");
    host.set("web", "apps/init/style", "plain\n");
    host.set("web", "apps/init/cmd.start", "/bin/sleep\n1000\n");
    let output = host.run(&["--silent", "web", "start"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(host.context("web"), 1239);
    let (_, text) = host.script(
        "web",
        "hostname; nice; cat /proc/net/fib_trie | grep -c 10.99.8.2",
    );
    assert!(text.starts_with("www.example.org\n3\n"), "{text}");
    assert_ne!(text.lines().last(), Some("0"));
    let (_, text) = host.script("web", "for i in $(seq 80); do sleep 9 & done; echo on");
    assert!(text.contains("fork"), "{text}");
    let shown = host.ok(&["vattribute", "--xid", "web", "--get"]);
    assert!(shown.contains("CAP_NET_RAW"), "{shown}");
    host.ok(&["web", "stop"]);
    assert_eq!(fs::read_to_string(host.at("conf/web.conf")).unwrap(), OLD);
    let mark = fs::read_to_string(host.at("conf/web/apps/init/mark")).unwrap();
    assert_eq!(mark, "default\n");
}

#[test]
fn another_file_and_profile_can_be_meant() {
    let host = Host::new();
    let root = root_of(&host, "mail");
    let file = host.at("elsewhere");
    fs::write(
        &file,
        format!("{OLD}IPROOTBCAST=10.255.255.255\nCOLOUR=green\n"),
    )
    .unwrap();
    let arguments = [
        "mail",
        "import",
        file.to_str().unwrap(),
        "--profile=backup",
        &root,
    ];
    let output = host.run(&arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.contains("IPROOTBCAST") && said.contains("line 22: COLOUR"),
        "{said}"
    );
    let read = |setting: &str| fs::read_to_string(host.at("conf/mail").join(setting)).unwrap();
    assert_eq!(read("uts/nodename"), "spare\n");
    assert_eq!(read("interfaces/0/ip"), "10.99.8.3\n");
}

#[test]
fn what_would_be_run_is_refused_and_nothing_is_written() {
    let host = Host::new();
    let root = root_of(&host, "web");
    let marker = host.at("ran");
    let file = host.at("conf/web.conf");
    let run = format!("touch {}", marker.display());
    for (text, line) in [
        (format!("S_NICE=1\n{run}\n"), "line 2:"),
        (format!("S_HOSTNAME=$({run})\n"), "line 1:"),
        (format!("S_HOSTNAME=\"`{run}`\"\n"), "line 1:"),
        (format!("\nS_NICE=1; {run}\n"), "line 2:"),
        (format!("S_HOSTNAME=\"a\n{run}\"\n"), "line 1:"),
        ("S_HOSTNAME=a\u{1b}[2J\n".to_owned(), "line 1:"),
        ("S_CONTEXT=../../x\n".to_owned(), "line 1:"),
        ("IPROOT=10.0.0.2\nIPROOTDEV=../../x\n".to_owned(), "line 1:"),
        ("S_NICE=\0\n".to_owned(), "NUL"),
        (format!("S_NICE={}\n", "1".repeat(2 << 20)), "1 MiB"),
    ] {
        fs::write(&file, &text).unwrap();
        let said = host.refused(&["web", "import", &root], 2);
        assert!(said.contains(line) && said.contains("web.conf"), "{said}");
        assert!(!marker.exists() && !host.at("conf/web").exists());
        assert!(!host.at("conf/.web.importing").exists());
    }
    fs::write(&file, b"S_HOSTNAME=\xff\n").unwrap();
    let said = host.refused(&["web", "import", &root], 2);
    assert!(said.contains("UTF-8"), "{said}");
    fs::remove_file(&file).unwrap();
    let said = host.refused(&["web", "import", &root], 2);
    assert!(said.contains("no such file"), "{said}");
    fs::write(&file, OLD).unwrap();
    let said = host.refused(&["web", "import", "--rootdir", "/no/such"], 1);
    assert!(said.contains("/no/such/web"), "{said}");
    assert!(!host.at("conf/web").exists());
    host.ok(&["web", "import", &root]);
    let said = host.refused(&["web", "import", &root], 1);
    assert!(said.contains("there already"), "{said}");
    let said = host.refused(&["../web", "import", &root], 2);
    assert!(said.contains("not a guest's name"), "{said}");
}
