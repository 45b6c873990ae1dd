//! What became of something that a machine has run.

use std::fmt;

/// What became of an [`Item`](super::item::Item).
#[derive(Debug)]
pub struct Outcome {
    /// That of the item.
    pub name: String,
    /// As a shell says it: 128 and the signal's number where a signal ended it. `None` where it did not end.
    pub status: Option<i32>,
    /// Standard output and standard error.
    pub text: String,
    /// Why it is not believed: the kernel complained, or the machine stopped or was stopped. One line.
    pub why: Option<String>,
    /// How many machines were started for it.
    pub boots: u32,
    /// Whether it is a test, which says whether it has run.
    pub is_test: bool,
    /// How long it took.
    pub seconds: u64,
    /// The name of the machine's kernel.
    pub machine: String,
    /// The kernel's log meanwhile; of the first item in a machine, from its start on.
    pub kernel: String,
}

impl Outcome {
    /// Whether it ended with 0 under a kernel that was content; a test has run besides.
    pub fn is_well(&self) -> bool {
        let has_run = self.text.contains("test result: ok. 1 passed;");
        self.why.is_none() && self.status == Some(0) && (has_run || !self.is_test)
    }

    /// All of it in one line.
    pub fn line(&self) -> String {
        let Self { name, machine, .. } = self;
        let ended = match (self.status, &self.why) {
            (_, Some(why)) => why.clone(),
            _ if self.is_well() => "ok".to_owned(),
            (Some(0), _) => "no test has run".to_owned(),
            (status, _) => format!("status {}", status.unwrap_or(-1)),
        };
        format!("{machine}: {name}: {ended}, {} s", self.seconds)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, kernel, .. } = self;
        let kernel = end_of(kernel);
        write!(
            to,
            "{}\n--- output\n{text}\n--- kernel\n{kernel}",
            self.line()
        )
    }
}

/// As much of a log as one wants to read first.
fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
