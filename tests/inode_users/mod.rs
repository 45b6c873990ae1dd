//! Files of a guest that somebody uses by another way than by their names: layers of mounted overlays, bind mounts in
//! whatever mount namespace, loop devices, swap. Their names must lead to the inode that is used, so they stay as they
//! are, by reasons of their own; and what is mounted over a guest's file stays mounted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod devices;
mod mounts;
mod overlays;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use vhashify_testkit::program::Host;
use vhashify_testkit::tree::{Content, PLAIN, inode, make_file};

const MOUNTED: &str = "mounted-or-loop-device";

const CONTENT: Content = Content {
    size: 5000,
    variant: 0,
};

/// A process in mount namespaces of its own, as a container engine makes one. What it has mounted goes with it.
struct Container(Child);

impl Container {
    /// Does `mount` in namespaces that `options` of unshare(1) make, waits for [`Self::finish`], and does `then`.
    fn start(options: &[&str], mount: &str, then: &str, variables: &[(&str, &Path)]) -> Self {
        let script = format!("set -e; {mount}\necho ready; read line; {then}");
        let mut process = Command::new("unshare")
            .args(options)
            .args(["--propagation", "private", "sh", "-c", &script])
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::with_capacity(1, process.stdout.as_mut().unwrap());
        output.read_line(&mut line).unwrap();
        let mut this = Self(process);
        assert!(line == "ready\n", "{mount}: {line}{}", this.errors());
        this
    }

    fn errors(&mut self) -> String {
        let mut said = String::new();
        let errors = self.0.stderr.as_mut().unwrap();
        errors.read_to_string(&mut said).unwrap();
        said
    }

    /// Lets it go on and end; what it said.
    fn finish(mut self) -> String {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let mut said = String::new();
        let output = self.0.stdout.as_mut().unwrap();
        output.read_to_string(&mut said).unwrap();
        let errors = self.errors();
        assert!(self.0.wait().unwrap().success(), "{errors}");
        said
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Two guests alike. In each: the layers of an overlay, several levels below the root directory, with a file and a
/// link group of which one name is elsewhere; and a file of which nobody but its guest knows.
struct Scene {
    host: Host,
    /// A directory outside of all guests, to mount something at.
    merged: PathBuf,
    /// A second one.
    other: PathBuf,
}

const LOG: &str = "srv/engine/one/up/etc/log";
const GROUP: &str = "srv/engine/one/up/group";
const GROUP_ELSEWHERE: &str = "srv/group";
const FREE: &str = "usr/free";

impl Scene {
    fn new(place: &Path) -> Self {
        let host = Host::new(place, 2);
        for guest in &host.guests {
            let variant = |variant| Content { variant, ..CONTENT };
            make_file(&guest.join(FREE), variant(2), PLAIN);
            make_file(&guest.join("srv/low/lower"), variant(3), PLAIN);
            // An engine makes layers later than the guest came there.
            std::thread::sleep(Duration::from_millis(30));
            make_file(&guest.join(LOG), CONTENT, PLAIN);
            make_file(&guest.join(GROUP), variant(1), PLAIN);
            fs::hard_link(guest.join(GROUP), guest.join(GROUP_ELSEWHERE)).unwrap();
            for directory in [
                "srv/engine/one/work",
                "srv/engine/one/merged",
                "srv/low/old",
            ] {
                fs::create_dir_all(guest.join(directory)).unwrap();
            }
        }
        let (merged, other) = (place.join("merged"), place.join("other"));
        fs::create_dir(&merged).unwrap();
        fs::create_dir(&other).unwrap();
        Self {
            host,
            merged,
            other,
        }
    }

    fn guest(&self) -> &Path {
        &self.host.guests[1]
    }

    fn container(&self, options: &[&str], mount: &str, then: &str) -> Container {
        let variables = [
            ("G", self.guest()),
            ("M", self.merged.as_path()),
            ("O", self.other.as_path()),
        ];
        Container::start(options, mount, then, &variables)
    }
}

fn is_shared(host: &Host, path: &str) -> bool {
    inode(&host.guests[0].join(path)) == inode(&host.guests[1].join(path))
}

fn last_line(path: &Path) -> String {
    let text = fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().last().unwrap_or_default().to_owned()
}

fn skipped(report: &Value, reason: &str) -> u64 {
    report["skipped"][reason].as_u64().unwrap_or(0)
}
