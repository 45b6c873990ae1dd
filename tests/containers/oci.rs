//! Containers of crun and runc.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use vhashify_testkit::filesystem::{Kind, command};
use vhashify_testkit::program::output;

use super::place::{Broker, Place, WORK, run_by_init, vserver, wait_until};
use super::sharing::{Run, UNSEEN, both_write_to_files_of_their_own, bring_unseen};

/// A container that runs; gone when the value is.
struct Container<'a> {
    runtime: &'static str,
    place: &'a Place,
    root: &'a Path,
    id: String,
}

impl<'a> Container<'a> {
    /// Starts one whose root directory is `guestNUMBER`. Its init does this first.
    fn start(
        runtime: &'static str,
        place: &'a Place,
        broker: &Broker,
        number: usize,
        begin: &str,
    ) -> Self {
        let bundle = place.at(&format!("bundle{number}"));
        fs::create_dir_all(&bundle).unwrap();
        let root = &place.host.guests[number];
        let config = serde_json::to_vec(&config(root, begin, &profile(broker))).unwrap();
        fs::write(bundle.join("config.json"), config).unwrap();
        let container = Self {
            runtime,
            place,
            root,
            id: format!("vhashify-{}-{number}", std::process::id()),
        };
        // It keeps what it is given open, so that a pipe would never end.
        let said = place.at(&format!("{runtime}{number}"));
        let mut run = container.command(&["run", "--detach", "--bundle"]);
        run.arg(&bundle).arg(&container.id).stdout(Stdio::null());
        let status = run.stderr(File::create(&said).unwrap()).status().unwrap();
        let said = fs::read_to_string(said).unwrap();
        assert!(status.success(), "{runtime}: {said}\n{}", broker.said());
        container
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let state = self.place.at("runtime");
        let mut command = if self.runtime == "crun" {
            // It works with one hierarchy of cgroups only; where the host has more, it is shown one.
            let script = "test -e /sys/fs/cgroup/cgroup.controllers ||
                mount -t cgroup2 none /sys/fs/cgroup && exec crun --cgroup-manager=disabled \"$@\"";
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script, "crun"]);
            command
        } else {
            Command::new(self.runtime)
        };
        command
            .arg("--root")
            .arg(state)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs a script: with runc by a command that enters the container. Debian 12's crun has no listener for
    /// such ones; there its init runs it.
    fn run(&self, script: &str, broker: &Broker) {
        let (is_well, said) = if self.runtime == "crun" {
            run_by_init(self.root, script)
        } else {
            let mut exec = self.command(&["exec", &self.id, "/bin/sh", "-c", script]);
            let done = output(&mut exec);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            (done.status.success(), said)
        };
        assert!(is_well, "{script}\n{said}\n{}", broker.said());
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        drop(self.command(&["delete", "--force", &self.id]).output());
    }
}

/// What `vserver broker --print-profile` prints.
fn profile(broker: &Broker) -> Value {
    let mut print = vserver();
    print
        .args(["broker", "--print-profile", "--socket"])
        .arg(&broker.oci);
    serde_json::from_str(&command(&mut print)).unwrap()
}

fn config(root: &Path, begin: &str, profile: &Value) -> Value {
    let capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL"];
    let namespaces = ["pid", "mount", "ipc", "uts", "network"];
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": root },
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/sh", "-c", format!("{begin}; {WORK}")],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities,
                              "permitted": capabilities },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
        ],
        "linux": {
            "namespaces": namespaces.map(|kind| json!({ "type": kind })),
            "seccomp": profile,
        },
    })
}

fn with(runtime: &'static str, kind: Kind) {
    let place = Place::new(kind);
    let broker = place.broker();
    let idle = broker.descriptors();
    let before = fs::read(place.host.guests[0].join("d/init")).unwrap();
    {
        let web = Container::start(runtime, &place, &broker, 0, "printf begun >> /d/init");
        let mail = Container::start(runtime, &place, &broker, 1, "true");
        let runs: [Run<'_>; 2] = [
            &|script| {
                web.run(script, &broker);
            },
            &|script| {
                mail.run(script, &broker);
            },
        ];
        both_write_to_files_of_their_own(&place, &broker, &before, runs);
    }
    wait_until("nothing of them is left", || broker.descriptors() == idle);
}

#[test]
fn inv3_inv4_containers_of_crun_write_to_files_of_their_own() {
    for kind in Kind::ALL {
        with("crun", kind);
    }
}

#[test]
fn inv3_inv4_containers_of_runc_write_to_files_of_their_own() {
    with("runc", Kind::Ext4);
}

#[test]
fn inv4_containers_of_runc_and_crun_have_no_call_that_the_broker_does_not_see() {
    for runtime in ["runc", "crun"] {
        let place = Place::new(Kind::Ext4);
        let broker = place.broker();
        bring_unseen(&place.host.guests[0]);
        let web = Container::start(runtime, &place, &broker, 0, "true");
        web.run(UNSEEN, &broker);
    }
}
