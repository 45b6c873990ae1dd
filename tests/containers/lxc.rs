//! Containers of LXC.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use vhashify_testkit::built;
use vhashify_testkit::filesystem::{Kind, command};
use vhashify_testkit::program::output;

use super::place::{Broker, Place, WORK, run_by_init, vserver, wait_until};
use super::sharing::{Run, UNSEEN, both_write_to_files_of_their_own, bring_unseen};

/// Who runs a script in a container.
#[derive(Clone, Copy)]
enum By {
    Init,
    /// One that enters it: its calls come by LXC's monitor.
    Command,
}

/// A container that runs; gone when the value is.
struct Container<'a> {
    place: &'a Place,
    root: &'a Path,
    name: String,
}

impl<'a> Container<'a> {
    /// Starts one whose root directory is `guestNUMBER`. Its init does this first.
    fn start(place: &'a Place, broker: &Broker, number: usize, begin: &str) -> Self {
        let container = Self::named(place, number);
        let log = place.at(&format!("lxc{number}.log"));
        let mut start = container.command("lxc-start");
        start.args(["--daemon", "--logfile"]).arg(&log);
        start
            .arg("--rcfile")
            .arg(container.configure(broker))
            .args(["--", "/bin/sh", "-c", &format!("{begin}; {WORK}")]);
        // Its monitor keeps what it is given open, so that a pipe would never end.
        let status = start.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let log = || fs::read_to_string(&log).unwrap_or_default();
        assert!(status.unwrap().success(), "{}\n{}", log(), broker.said());
        container
    }

    fn named(place: &'a Place, number: usize) -> Self {
        /// All of one host have their cgroups side by side.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        fs::create_dir_all(place.at("lxc")).unwrap();
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            place,
            root: &place.host.guests[number],
            name: format!("vhashify-{}-{unique}", std::process::id()),
        }
    }

    fn configure(&self, broker: &Broker) -> PathBuf {
        let profile = self.place.at("lxc.seccomp");
        let mut print = vserver();
        print
            .args(["broker", "--print-profile=lxc", "--socket"])
            .arg(&broker.oci);
        fs::write(&profile, command(&mut print)).unwrap();
        let config = self.place.at(&format!("{}.conf", self.name));
        let lines = [
            format!("lxc.rootfs.path = dir:{}", self.root.display()),
            format!("lxc.uts.name = {}", self.name),
            "lxc.net.0.type = empty".to_owned(),
            "lxc.mount.auto = proc:mixed".to_owned(),
            "lxc.environment = PATH=/bin".to_owned(),
            format!("lxc.seccomp.profile = {}", profile.display()),
            format!("lxc.seccomp.notify.proxy = unix:{}", broker.lxc.display()),
            format!(
                "lxc.hook.pre-start = {} broker --socket {} --lxc-hook",
                built::vserver().display(),
                broker.oci.display()
            ),
        ];
        fs::write(&config, lines.join("\n") + "\n").unwrap();
        config
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(what);
        command
            .arg("--lxcpath")
            .arg(self.place.at("lxc"))
            .args(["--name", &self.name])
            .stdin(Stdio::null());
        command
    }

    fn run(&self, by: By, script: &str, broker: &Broker) {
        let (is_well, said) = match by {
            By::Init => run_by_init(self.root, script),
            By::Command => self.attach(script),
        };
        assert!(is_well, "{script}\n{said}\n{}", broker.said());
    }

    /// The listener of the command and the number of its process come to LXC 5.0 over one stream from two
    /// processes. Where the listener is first, it is lost in reading the number, and each call that would wait fails:
    /// then nothing was changed, and the command is given again.
    fn attach(&self, script: &str) -> (bool, String) {
        let attempt = || {
            let mut attach = self.command("lxc-attach");
            attach.args(["--clear-env", "--set-var", "PATH=/bin", "--"]);
            let done = output(attach.args(["/bin/sh", "-c", script]));
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            (done.status.success(), said)
        };
        let is_lost =
            |(is_well, said): &(bool, String)| !is_well && said.contains("not implemented");
        let mut done = attempt();
        for _ in 0..10 {
            if !is_lost(&done) {
                break;
            }
            done = attempt();
        }
        done
    }

    /// Its monitor hears commands: it does not wait for a call that the broker has received.
    fn stop(self) {
        let mut stop = Command::new("timeout");
        stop.arg("20")
            .arg("lxc-stop")
            .args(self.command("lxc-stop").get_args());
        let done = output(stop.arg("--kill"));
        assert!(done.status.success(), "{done:?}");
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        drop(self.command("lxc-stop").arg("--kill").output());
    }
}

fn with(kind: Kind, by: By) {
    let place = Place::new(kind);
    let broker = place.broker();
    let idle = broker.descriptors();
    let before = fs::read(place.host.guests[0].join("d/init")).unwrap();
    {
        let web = Container::start(&place, &broker, 0, "printf begun >> /d/init");
        let mail = Container::start(&place, &broker, 1, "true");
        let runs: [Run<'_>; 2] = [
            &|script| {
                web.run(by, script, &broker);
            },
            &|script| {
                mail.run(By::Command, script, &broker);
            },
        ];
        both_write_to_files_of_their_own(&place, &broker, &before, runs);
        web.stop();
        mail.stop();
    }
    wait_until("nothing of them is left", || broker.descriptors() == idle);
}

#[test]
fn inv3_inv4_containers_of_lxc_write_to_files_of_their_own() {
    for kind in Kind::ALL {
        with(kind, By::Init);
    }
}

#[test]
fn inv3_inv4_commands_that_enter_a_container_of_lxc_write_to_files_of_its_own() {
    with(Kind::Ext4, By::Command);
}

#[test]
fn inv4_containers_of_lxc_have_no_call_that_the_broker_does_not_see() {
    let place = Place::new(Kind::Ext4);
    let broker = place.broker();
    bring_unseen(&place.host.guests[0]);
    let web = Container::start(&place, &broker, 0, "true");
    web.run(By::Init, UNSEEN, &broker);
    web.stop();
}

/// LXC's monitor keeps the listener, and connects again at the next call (5.0: once).
#[test]
fn inv4_a_container_of_lxc_is_served_by_the_next_broker() {
    let place = Place::new(Kind::Ext4);
    let mut broker = place.broker();
    let other = place.host.guests[1].join("d/single");
    let before = fs::read(&other).unwrap();
    let web = Container::start(&place, &broker, 0, "true");
    web.run(By::Init, "true", &broker);
    broker.end(rustix::process::Signal::KILL);
    let broker = place.broker();
    let write = "printf more >> /d/single";
    for by in [By::Init, By::Command] {
        web.run(by, write, &broker);
    }
    let own = fs::read(web.root.join("d/single")).unwrap();
    assert_eq!(own, [&before[..], b"moremore"].concat());
    assert_eq!(fs::read(&other).unwrap(), before);
    web.stop();
}

#[test]
fn without_a_broker_a_container_of_lxc_does_not_start_and_says_why() {
    let place = Place::new(Kind::Ext4);
    let mut broker = place.broker();
    let container = Container::named(&place, 0);
    let config = container.configure(&broker);
    broker.end(rustix::process::Signal::TERM);
    let log = place.at("lxc.log");
    let mut start = container.command("lxc-start");
    start
        .args(["--foreground", "--logpriority", "DEBUG", "--logfile"])
        .arg(&log);
    let done = output(start.arg("--rcfile").arg(config).args(["--", "/bin/true"]));
    assert!(!done.status.success());
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("no broker listens on"), "{log}");
}
