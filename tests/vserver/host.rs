//! A host for one test: a configuration tree, guests, and the state of those that run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use vhashify_testkit::built;
use vhashify_testkit::filesystem::command;
use vhashify_testkit::guests;

/// Stops every guest and removes everything when it goes, also when a test panics.
pub struct Host {
    place: TempDir,
}

impl Host {
    pub fn new() -> Self {
        Self::below(built::scratch())
    }

    /// One whose guests and everything else are in a directory of `top`.
    pub fn below(top: &Path) -> Self {
        let place = TempDir::with_prefix_in("vserver-", top).unwrap();
        // As it should be: users of the host reach no guest.
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for below in ["conf", "vdirs"] {
            fs::create_dir(place.path().join(below)).unwrap();
        }
        Self { place }
    }

    pub fn at(&self, below: &str) -> PathBuf {
        self.place.path().join(below)
    }

    pub fn vdir(&self, name: &str) -> PathBuf {
        self.at("vdirs").join(name)
    }

    /// Writes one value of the configuration of a guest.
    pub fn set(&self, name: &str, setting: &str, value: &str) {
        let path = self.at("conf").join(name).join(setting);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    }

    /// A real Debian guest whose init is `arguments`, itself process 1.
    ///
    /// Its files are links of those of the other guests of these tests, as if unified.
    pub fn guest(&self, name: &str, arguments: &[&str]) {
        self.guest_like("alpha", name, arguments);
    }

    pub fn guest_like(&self, pristine: &str, name: &str, arguments: &[&str]) {
        let vdir = self.vdir(name);
        command(Command::new("cp").args(["-al".as_ref(), template(pristine), vdir.as_path()]));
        let conf = self.at("conf").join(name);
        fs::create_dir_all(&conf).unwrap();
        symlink(&vdir, conf.join("vdir")).unwrap();
        self.set(name, "apps/init/style", "plain\n");
        // What holds a guest must hold where this wall is not there.
        self.set(name, "spaces/user", "host\n");
        self.give_own_context(name);
        if !arguments.is_empty() {
            self.set(name, "apps/init/cmd.start", &(arguments.join("\n") + "\n"));
        }
    }

    /// A context number that no other guest of these tests has.
    ///
    /// One from the free ones would be given to a guest of the next test as soon as this guest has
    /// stopped, and what is there under that number then looked as if it were left of this one.
    pub fn give_own_context(&self, name: &str) {
        let context = next_context();
        self.set(name, "context", &format!("{context}\n"));
    }

    /// A guest that sleeps until it is stopped.
    pub fn sleeper(&self, name: &str) {
        self.guest(name, &["/bin/sleep", "1000"]);
    }

    /// `vserver --config-dir … --state-dir … ARGUMENTS`.
    pub fn vserver(&self, arguments: &[&str]) -> Command {
        let mut vserver = Command::new(built::vserver());
        vserver
            .env_remove("VSERVER_CONFDIR")
            .stdin(Stdio::null())
            .arg("--config-dir")
            .arg(self.at("conf"))
            .arg("--state-dir")
            .arg(self.at("state"))
            .args(arguments);
        vserver
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.vserver(arguments).output().unwrap()
    }

    /// Stops a guest by SIGKILL, whatever its style would wait for, and deletes it.
    pub fn delete_at_once(&self, name: &str) {
        self.set(name, "apps/init/killseq", "KILL\n");
        self.ok(&[name, "stop"]);
        self.ok(&["--silent", name, "delete"]);
    }

    /// Runs it; it must succeed. Gives what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs it; it must refuse with one line. Gives the line.
    pub fn refused(&self, arguments: &[&str], status: i32) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "one line: {error}");
        assert!(error.starts_with("vserver: "), "{error}");
        error.trim_end().to_owned()
    }

    /// Runs a shell script in a guest. Gives its exit status and what it printed on either way.
    pub fn script(&self, name: &str, script: &str) -> (i32, String) {
        let output = self.run(&[name, "exec", "sh", "-c", script]);
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap_or(-1), text)
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.run(&[name, "running"]).status.success()
    }

    /// What the state directory says about a guest that runs.
    pub fn state(&self, name: &str) -> Value {
        let path = self.at("state").join(name).join("guest.json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    pub fn context(&self, name: &str) -> u64 {
        self.state(name)["context"].as_u64().unwrap()
    }

    pub fn console(&self, name: &str) -> String {
        let path = self.at("state").join(name).join("console.log");
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Nothing that starting it made is left: no process, mount, cgroup or device.
    ///
    /// Of a guest with a context of its own ([`Self::give_own_context`]).
    pub fn assert_nothing_is_left(&self, name: &str, context: u64) {
        let vdir = self.vdir(name);
        let text = vdir.to_str().unwrap();
        assert!(
            !fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains(text)
        );
        let cgroups = PathBuf::from("/sys/fs/cgroup");
        let tops = fs::read_dir(&cgroups).unwrap().flatten();
        for top in tops.map(|top| top.path()).chain([cgroups]) {
            let below = top.join("vserver").join(context.to_string());
            assert!(!below.exists(), "{} is left", below.display());
        }
        assert!(!Path::new(&format!("/sys/class/net/vs{context}")).exists());
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let root = fs::read_link(process.path().join("root")).unwrap_or_default();
            assert!(
                !root.starts_with(&vdir),
                "{} is left",
                process.path().display()
            );
            let mounts = fs::read_to_string(process.path().join("mountinfo")).unwrap_or_default();
            assert!(
                !mounts.contains(text),
                "{} has its mounts",
                process.path().display()
            );
        }
        let state = self.at("state").join(name);
        for below in ["guest.json", "bundle", "container", "console", "stopping"] {
            assert!(!state.join(below).exists(), "{below} is left");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let conf = fs::read_dir(self.at("conf")).unwrap();
        for guest in conf.flatten() {
            let name = guest.file_name().into_string().unwrap_or_default();
            if self.at("state").join(&name).join("guest.json").exists() {
                self.set(&name, "apps/init/killseq", "KILL\n");
                drop(self.run(&["--silent", &name, "stop"]));
            }
        }
    }
}

/// The next number of a sequence that all tests of this machine share, each in a process of its own or not.
/// It begins anew long after the guest that had a number is gone.
fn next_context() -> u32 {
    const NUMBERS: std::ops::Range<u32> = 2000..49_000;
    let place = built::scratch().join("vserver-contexts");
    let mut options = fs::File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(place).unwrap();
    file.lock().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    let next = text.parse().unwrap_or(NUMBERS.start);
    let after = if NUMBERS.contains(&(next + 1)) {
        next + 1
    } else {
        NUMBERS.start
    };
    file.set_len(0).unwrap();
    file.rewind().unwrap();
    file.write_all(after.to_string().as_bytes()).unwrap();
    next
}

/// A private copy of a pristine guest, of whose files the guests of tests are links.
pub fn template(name: &str) -> &'static Path {
    static TEMPLATES: OnceLock<std::sync::Mutex<BTreeMap<String, &'static Path>>> = OnceLock::new();
    let mut made = TEMPLATES.get_or_init(Default::default).lock().unwrap();
    made.entry(name.to_owned()).or_insert_with(|| {
        let place = built::scratch().join(format!("vserver-of-{name}"));
        let marker = place.with_extension("complete");
        // One test makes it, and the others wait.
        let lock = fs::File::create(place.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        if !marker.exists() {
            command(Command::new("rm").arg("-rf").arg(&place));
            guests::copy(name, &place);
            fs::write(marker, "").unwrap();
        }
        Box::leak(place.into_boxed_path())
    })
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// Every name below a directory, with kind, size, mode and owner.
pub fn listing(top: &Path) -> BTreeMap<PathBuf, (u32, u64, u32, u32)> {
    let mut found = BTreeMap::new();
    let mut open = vec![top.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let of = entry.path().symlink_metadata().unwrap();
            if of.is_dir() {
                open.push(entry.path());
            }
            let size = if of.is_dir() { 0 } else { of.len() };
            found.insert(entry.path(), (of.mode(), size, of.uid(), of.gid()));
        }
    }
    found
}

/// Waits until something is true, at most ten seconds.
pub fn wait_until(what: &str, is_true: impl FnMut() -> bool) {
    wait_at_most(Duration::from_secs(10), what, is_true);
}

/// Waits until something is true, at most so long.
pub fn wait_at_most(time: Duration, what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < time, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
