//! The built `vhashify`, as a user runs it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::built;

/// The mode of protection that tests use which are about no certain one: `none`, or what this says.
/// In machines it says `lsm`.
pub const PROTECTION: &str = "VHASHIFY_TEST_PROTECTION";

/// Whether runs are protected by the guard.
pub fn is_guarded() -> bool {
    match std::env::var(PROTECTION).as_deref() {
        Ok("lsm") => true,
        Ok(other) => panic!("{PROTECTION}={other}"),
        Err(_) => false,
    }
}

/// A store and guests in one directory, and the state directory of the indexes beside them.
///
/// ```text
/// PLACE/hash      the store
/// PLACE/state     the indexes
/// PLACE/a, b, …   guests
/// ```
#[derive(Debug, Clone)]
pub struct Host {
    /// The directory.
    pub place: PathBuf,
    /// The guests' roots.
    pub guests: Vec<PathBuf>,
    /// What runs are told with `--protect`.
    pub protect: &'static str,
}

impl Host {
    /// Makes the store, and the roots of `count` guests, in `place`.
    pub fn new(place: &Path, count: usize) -> Self {
        let guests: Vec<PathBuf> = (0..count)
            .map(|number| place.join(format!("guest{number}")))
            .collect();
        for directory in guests.iter().chain([&place.join("hash")]) {
            fs::create_dir_all(directory).unwrap();
        }
        Self {
            place: place.to_path_buf(),
            guests,
            protect: if is_guarded() { "lsm" } else { "none" },
        }
    }

    /// The same, with runs in another mode of protection.
    pub fn protected_by(mut self, mode: &'static str) -> Self {
        self.protect = mode;
        self
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.place.join("hash")
    }

    /// The directory of the indexes.
    pub fn state(&self) -> PathBuf {
        self.place.join("state")
    }

    /// `vhashify … --destination STORE --state-dir STATE`.
    pub fn command<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = vhashify();
        command
            .args(arguments)
            .arg("--destination")
            .arg(self.store())
            .arg("--state-dir")
            .arg(self.state());
        command
    }

    /// A run over all guests: `vhashify --protect MODE --manually OPTIONS GUEST…`.
    pub fn run_command(&self, options: &[&str]) -> Command {
        let mut arguments: Vec<OsString> =
            vec!["--protect".into(), self.protect.into(), "--manually".into()];
        arguments.extend(options.iter().map(OsString::from));
        arguments.extend(self.guests.iter().map(OsString::from));
        self.command(arguments)
    }

    /// Does it; everything must be well. Returns what `--format json` prints.
    pub fn run(&self, options: &[&str]) -> Value {
        json(self.run_command(options))
    }

    /// Another command with all well: `gc`, `verify` …
    pub fn call<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Value {
        json(self.command(arguments))
    }

    /// Gives one guest its own copies back.
    pub fn deunify(&self, guest: usize, paths: &[&str]) -> Value {
        let mut arguments: Vec<OsString> = vec!["deunify".into(), "--manually".into()];
        arguments.push(self.guests[guest].clone().into());
        arguments.extend(paths.iter().map(OsString::from));
        self.call(arguments)
    }
}

/// `vhashify` without the environment's configuration.
pub fn vhashify() -> Command {
    let mut command = Command::new(built::vhashify());
    command.env_remove("VSERVER_CONFDIR").stdin(Stdio::null());
    command
}

/// `vserver` without the environment's configuration.
pub fn vserver() -> Command {
    let mut command = Command::new(built::vserver());
    command.env_remove("VSERVER_CONFDIR").stdin(Stdio::null());
    command
}

/// Runs it with `--format json`; all must be well.
pub fn json(mut command: Command) -> Value {
    command.args(["--format", "json"]);
    all_well(command)
}

/// Runs a command that asks for JSON by itself; all must be well.
pub fn all_well(mut command: Command) -> Value {
    let output = output(&mut command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    serde_json::from_slice(&output.stdout).expect("one JSON object on standard output")
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Output {
    command.output().expect("the program can be run")
}

/// Runs a command that must refuse: exit status, one line on standard error, nothing on standard
/// output. Returns the line.
pub fn refused(command: &mut Command, status: i32) -> String {
    let output = output(command);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{command:?}: {error}");
    assert_eq!(output.stdout, b"", "{command:?}");
    assert_eq!(error.lines().count(), 1, "one line: {error}");
    assert!(error.starts_with("vhashify: "), "{error}");
    error.trim_end().to_owned()
}

/// Starts a command and does not wait.
pub fn spawn(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run")
}
