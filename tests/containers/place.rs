//! A store, root directories of containers that share all their files, and a broker.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use vhashify_testkit::built;
use vhashify_testkit::disturb::place_in;
use vhashify_testkit::filesystem::{Filesystem, Kind, command};
use vhashify_testkit::program::Host;
use vhashify_testkit::tree::{Content, PLAIN, make_file};

/// What the shell of a container runs.
const APPLETS: [&str; 12] = [
    "sh", "cat", "chmod", "chown", "dd", "ln", "printf", "rm", "sleep", "stat", "touch", "true",
];

/// A filesystem with a store and the root directories `guest0` and `guest1`, unified.
pub struct Place {
    pub host: Host,
    _filesystem: Filesystem,
}

impl Place {
    pub fn new(kind: Kind) -> Self {
        let filesystem = Filesystem::new(kind);
        let host = Host::new(&place_in(&filesystem), 2);
        for guest in &host.guests {
            for directory in ["bin", "dev", "proc", "sys", "tmp", "e"] {
                fs::create_dir_all(guest.join(directory)).unwrap();
            }
            command(
                Command::new("cp")
                    .args(["-pL", "/bin/busybox"])
                    .arg(guest.join("bin")),
            );
            for applet in APPLETS {
                symlink("busybox", guest.join("bin").join(applet)).unwrap();
            }
            for (variant, name) in [
                "single", "mode", "owner", "held", "linked", "whole", "later", "init",
            ]
            .iter()
            .enumerate()
            {
                let variant = u8::try_from(variant).unwrap();
                let content = Content {
                    size: 20_000,
                    variant,
                };
                make_file(&guest.join("d").join(name), content, PLAIN);
            }
            let content = Content {
                size: 9_000,
                variant: 9,
            };
            make_file(&guest.join("d/group0"), content, PLAIN);
            for name in ["d/group1", "e/group2", "e/group3"] {
                fs::hard_link(guest.join("d/group0"), guest.join(name)).unwrap();
            }
        }
        host.run(&[]);
        Self {
            host,
            _filesystem: filesystem,
        }
    }

    pub fn at(&self, below: &str) -> PathBuf {
        self.host.place.join(below)
    }

    /// `vserver broker` with the store.
    pub fn broker(&self) -> Broker {
        let store = self.host.store();
        Broker::start(
            &self.host.place,
            &["--destination".as_ref(), store.as_path()],
        )
    }
}

/// `vserver` without the environment's configuration.
pub fn vserver() -> Command {
    let mut command = Command::new(built::vserver());
    command.env_remove("VSERVER_CONFDIR").stdin(Stdio::null());
    command
}

/// A broker that runs; killed when it goes.
pub struct Broker {
    pub child: Child,
    pub oci: PathBuf,
    pub lxc: PathBuf,
    said: PathBuf,
}

impl Broker {
    pub fn start(place: &Path, options: &[&Path]) -> Self {
        let names = ["oci", "lxc.proxy", "said", "told"];
        let [oci, lxc, said, told] = names.map(|name| place.join(name));
        let mut broker = vserver();
        broker.arg("broker").arg("--socket").arg(&oci);
        broker.arg("--lxc-socket").arg(&lxc);
        let errors = fs::File::create(&said).unwrap();
        broker
            .args(options)
            .arg("-v")
            .stdout(fs::File::create(&told).unwrap())
            .stderr(errors);
        let mut child = broker.spawn().unwrap();
        wait_until("it listens", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(&said).unwrap());
            let told = fs::read_to_string(&told).unwrap();
            told.lines().count() == 2 && told.ends_with('\n')
        });
        Self {
            child,
            oci,
            lxc,
            said,
        }
    }

    /// What it printed on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// How many descriptors it has.
    pub fn descriptors(&self) -> usize {
        let listed = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        listed.unwrap().count()
    }

    /// Ends it by a signal; gives its exit status.
    pub fn end(&mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What an init does: the scripts that it is given.
pub const WORK: &str = "while sleep 0.05; do if test -e /tmp/do; then
    sh /tmp/do >/tmp/said 2>&1; printf $? >/tmp/status; rm /tmp/do; fi; done";

/// Has the init of a container run a script; whether it did well, and what it printed.
pub fn run_by_init(root: &Path, script: &str) -> (bool, String) {
    let at = |name: &str| root.join("tmp").join(name);
    fs::write(at("new"), script).unwrap();
    fs::rename(at("new"), at("do")).unwrap();
    wait_until("its init has run it", || !at("do").exists());
    let status = fs::read_to_string(at("status")).unwrap();
    (status == "0", fs::read_to_string(at("said")).unwrap())
}
