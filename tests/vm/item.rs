//! Something that a machine runs.

use std::ffi::OsString;

use vhashify_testkit::built;

use super::programs;

/// Something that a machine runs, as root, with the paths of the machine.
#[derive(Debug, Clone)]
pub struct Item {
    /// As a reader of the results finds it.
    pub name: String,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Whether it is a test of this program, which says whether it has run.
    pub is_test: bool,
    /// Whether one wants to see what it prints where all is well, too.
    pub is_shown: bool,
}

impl Item {
    /// The test of this program that has exactly this name.
    pub fn test(name: &str) -> Self {
        let runner = ["/programs/runner", "--include-ignored", "--exact", name];
        Self {
            name: name.to_owned(),
            command: runner.map(OsString::from).to_vec(),
            is_test: true,
            is_shown: false,
        }
    }

    /// A shell script.
    pub fn script(name: &str, script: &str) -> Self {
        Self {
            name: name.to_owned(),
            command: ["sh", "-c", script].map(OsString::from).to_vec(),
            is_test: false,
            is_shown: false,
        }
    }

    /// These attacks of the torture.
    pub fn torture(attacks: &[&str]) -> Self {
        let mut command = vec![OsString::from("/programs/torture")];
        command.extend(attacks.iter().map(OsString::from));
        Self {
            name: programs::TORTURE.to_owned(),
            command,
            is_test: false,
            is_shown: true,
        }
    }

    /// The same with this in its environment.
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        let set = OsString::from(format!("{variable}={value}"));
        self.command.splice(0..0, ["env".into(), set]);
        self
    }

    /// The same where the disk with guests is.
    pub fn on_the_disk_with_guests(self) -> Self {
        self.with(built::SCRATCH, "/guests")
    }

    /// The same, and what it prints is shown.
    pub fn shown(mut self) -> Self {
        if self.is_test {
            self.command.push("--nocapture".into());
        }
        self.is_shown = true;
        self
    }
}
