//! The README's third example: two unified guests that run, are looked at, entered and stopped; and
//! `vhashify` beside them while their services write.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use vhashify_testkit::built;
use vhashify_testkit::filesystem::{Filesystem, Kind};
use vhashify_testkit::guests;

use super::host::{Host, wait_until};

const NAMES: [&str; 2] = ["web", "mail"];

/// `web`, which is built from a real Debian with nginx, and `mail`, its clone, in one store.
///
/// By `rsync`, since `debootstrap` has a test of its own that downloads what it needs.
fn two_guests(host: &Host, addresses: [&str; 2]) {
    let store = host.at("vdirs/.hash");
    fs::create_dir(&store).unwrap();
    let hash = host.at("conf/.defaults/apps/vunify/hash");
    fs::create_dir_all(&hash).unwrap();
    symlink(&store, hash.join("root")).unwrap();
    let root = format!("--rootdir={}", host.at("vdirs").display());
    let pristine = guests::pristine().join("beta");
    let pristine = pristine.to_str().unwrap();
    let built = [("rsync", pristine), ("clone", "web")];
    for ((name, address), (method, source)) in NAMES.iter().zip(addresses).zip(built) {
        let options = ["--initstyle=plain", &root, "--interface", address];
        let method = ["build", "-m", method];
        let source = ["--", "--source", source];
        host.ok(&[&[*name][..], &method, &options, &source].concat());
        host.give_own_context(name);
        host.set(
            name,
            "apps/init/cmd.start",
            "/usr/sbin/nginx\n-g\ndaemon off;\n",
        );
        fs::create_dir(host.at("conf").join(name).join("apps/vunify")).unwrap();
    }
}

/// `vserver web hashify … mail`: a run over both.
fn hashify(host: &Host, protect: &str) -> Value {
    let index = host.at("index");
    let options = ["--protect", protect, "--format", "json", "--state-dir"];
    let guests = [index.to_str().unwrap(), "mail"];
    let said = host.ok(&[&["web", "hashify"][..], &options, &guests].concat());
    serde_json::from_str(&said).unwrap()
}

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

fn answers(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect((address, 80)) else {
        return false;
    };
    let mut answer = String::new();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    true
}

fn assert_nothing_is_left(host: &Host, contexts: &[u64], addresses: [&str; 2]) {
    for (name, context) in NAMES.iter().zip(contexts) {
        host.assert_nothing_is_left(name, *context);
    }
    let shown = Command::new("ip").args(["route"]).output().unwrap();
    let routes = String::from_utf8(shown.stdout).unwrap();
    for address in addresses {
        assert!(!routes.contains(&format!("{address} ")), "{routes}");
    }
}

#[test]
fn two_unified_guests_start_are_entered_answer_and_leave_nothing() {
    let host = Host::new();
    let addresses = ["10.213.8.2", "10.213.8.3"];
    two_guests(&host, addresses);
    let unified = hashify(&host, "none");
    assert!(
        unified["files_unified"].as_u64().unwrap() > 1000,
        "{unified}"
    );
    let nginx = |name: &str| inode(&host.vdir(name).join("usr/sbin/nginx"));
    assert_eq!(nginx("web"), nginx("mail"));
    for name in NAMES {
        host.ok(&[name, "start"]);
    }
    let contexts = NAMES.map(|name| host.context(name));
    for address in addresses {
        wait_until("nginx answers", || answers(address));
    }
    let mut stat = Command::new(built::vserver());
    stat.arg("vserver-stat")
        .arg("--state-dir")
        .arg(host.at("state"));
    let table = String::from_utf8(stat.output().unwrap().stdout).unwrap();
    for name in NAMES {
        let line = table
            .lines()
            .find(|line| line.ends_with(&format!("  {name}")));
        // nginx's master and its workers.
        let processes = line.unwrap().split_whitespace().nth(1).unwrap();
        assert!(processes.parse::<u32>().unwrap() > 1, "{table}");
        assert_eq!(entered(&host, name), name);
    }
    for name in NAMES {
        host.ok(&[name, "stop"]);
    }
    assert_nothing_is_left(&host, &contexts, addresses);
    assert_eq!(nginx("web"), nginx("mail"));
}

/// The host name that a shell in the guest shows, on a terminal as `enter` gives one.
fn entered(host: &Host, name: &str) -> String {
    let enter = format!(
        "{} --config-dir {} --state-dir {} {name} enter",
        built::vserver().display(),
        host.at("conf").display(),
        host.at("state").display()
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &enter, "/dev/null"])
        .env("TERM", "dumb");
    let script = script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let typed = b"test -t 0 && echo \"<$(hostname)>\"; exit\n";
    child.stdin.as_mut().unwrap().write_all(typed).unwrap();
    let shown = child.wait_with_output().unwrap();
    assert!(shown.status.success());
    let shown = String::from_utf8(shown.stdout).unwrap();
    let mut said = shown
        .lines()
        .filter_map(|line| line.trim().strip_prefix('<'));
    said.next_back().unwrap().trim_end_matches('>').to_owned()
}

/// What a service does, without an end: it puts files in the place of old ones, as an upgrade does, and
/// appends a line to each, which takes it a moment; and says when a file does not hold what was written.
/// Files of both guests are alike until the line is there, so that runs link them.
const SERVICE: &str = r#"
    use strict;
    chdir "/usr/local/share" or die;
    my $base = "base\n" x 12_000;
    for (my $round = 1; ; $round++) {
        for my $file (1 .. 40) {
            system("cp -p base new && mv new file$file") == 0 or die;
        }
        for my $file (1 .. 40) {
            open(my $to, ">>", "file$file") or next;
            select(undef, undef, undef, 0.005);
            syswrite($to, "$ARGV[0] $round $file\n");
            close($to);
            open(my $from, "<", "file$file") or die;
            my $now = join("", <$from>);
            substr($now, 0, length $base) eq $base or print "file$file has other bytes\n";
            $now =~ /^$ARGV[0] $round $file$/m or print "a line of file$file is lost\n";
        }
        open(my $rounds, ">", "rounds");
        print $rounds $round;
    }
"#;

#[test]
fn inv1_and_5_vhashify_beside_running_guests_whose_services_write() {
    // Guests that run and are not trusted share extents where no guard is.
    let filesystem = Filesystem::with_options(Kind::Btrfs, 4 << 30, "");
    let host = Host::below(filesystem.path());
    let addresses = ["10.213.8.4", "10.213.8.5"];
    two_guests(&host, addresses);
    for name in NAMES {
        let base = host.vdir(name).join("usr/local/share/base");
        fs::write(&base, "base\n".repeat(12_000)).unwrap();
        let old = Command::new("touch")
            .args(["-d", "2001-01-01"])
            .arg(&base)
            .status();
        assert!(old.unwrap().success());
        let service = host.vdir(name).join("usr/local/bin/service");
        fs::write(service, SERVICE).unwrap();
        let both = format!("/usr/sbin/nginx; exec perl /usr/local/bin/service {name}");
        let command = format!("/bin/sh\n-c\n{both}\n");
        host.set(name, "apps/init/cmd.start", &command);
        host.ok(&[name, "start"]);
    }
    let contexts = NAMES.map(|name| host.context(name));
    for address in addresses {
        wait_until("nginx answers", || answers(address));
    }
    let rounds = |name: &str| -> u64 {
        let path = host.vdir(name).join("usr/local/share/rounds");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let mut unified = 0;
    let mut runs = 0;
    // Until both have written beside runs for a while, and runs have linked what they had written.
    let begun = std::time::Instant::now();
    while unified <= 20 || runs < 5 || NAMES.iter().any(|name| rounds(name) < 3) {
        unified += hashify(&host, "reflink")["files_unified"].as_u64().unwrap();
        runs += 1;
        assert!(
            begun.elapsed() < Duration::from_mins(10),
            "after {runs} runs"
        );
        assert!(addresses.iter().all(|address| answers(address)));
    }
    for name in NAMES {
        assert_eq!(host.console(name), "", "{name}");
        host.ok(&[name, "stop"]);
        let verified = Command::new("chroot")
            .arg(host.vdir(name))
            .args(["dpkg", "--verify"])
            .output();
        assert_eq!(String::from_utf8_lossy(&verified.unwrap().stdout), "");
    }
    assert_nothing_is_left(&host, &contexts, addresses);
}
