//! What was measured, as `target/bench/results.json` has it; `benches/README.md` says what each
//! member means. Whatever was not measured is absent.

use serde::Deserialize;

/// The form of the file that is understood here.
pub const FORMAT: u32 = 1;

/// All of it.
#[derive(Deserialize)]
pub struct Results {
    /// See [`FORMAT`].
    pub format: u32,
    /// `quick` or `full`.
    pub form: String,
    /// Where it was measured.
    pub machine: Machine,
    /// Tools that are not installed.
    #[serde(default)]
    pub absent: Vec<String>,
    /// The rows of the table, in their order.
    pub rows: Vec<Row>,
    /// How cost grows.
    #[serde(default)]
    pub growth: Vec<Growth>,
}

/// Where it was measured.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub processor: String,
    /// How many threads it runs at once.
    pub threads: f64,
    /// Bytes of memory.
    pub memory: f64,
    /// Kind of the filesystem.
    pub filesystem: String,
}

/// One thing that all tools did.
#[derive(Deserialize)]
pub struct Row {
    /// Its name for programs.
    pub id: String,
    /// Its name for people.
    pub what: String,
    /// On what.
    #[serde(default)]
    pub setting: String,
    /// Count of files.
    pub files: Option<f64>,
    /// vhashify first, then its peers, then the limits.
    pub figures: Vec<Figure>,
    /// What was to be reached.
    #[serde(default)]
    pub goals: Vec<Goal>,
    /// What is in the way, where that was missed.
    pub note: Option<String>,
}

/// Who did it.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// vhashify.
    Own,
    /// Another tool.
    Peer,
    /// What no tool that does the same work can be much quicker than.
    Limit,
}

/// What one of them took for it: medians, and the spread of time.
#[derive(Deserialize)]
pub struct Figure {
    /// The tool's name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// From beginning to end.
    pub seconds: Option<f64>,
    /// The quickest round.
    pub least: Option<f64>,
    /// The slowest round.
    pub most: Option<f64>,
    /// Of all its threads and children.
    pub processor_seconds: Option<f64>,
    /// The most memory at once.
    pub peak_bytes: Option<f64>,
    /// What it freed on the disk.
    pub bytes_saved: Option<f64>,
    /// What files lost by it.
    pub metadata_lost: Option<Vec<String>>,
}

/// What was to be reached, and whether it was.
#[derive(Deserialize)]
pub struct Goal {
    /// In words.
    pub text: String,
    /// Compared with whom.
    pub against: Option<String>,
    /// `seconds`, as a ratio, or `bytes a file`.
    #[serde(default)]
    pub measure: String,
    /// What was reached.
    pub value: Option<f64>,
    /// In the best round.
    pub least: Option<f64>,
    /// In the worst round.
    pub most: Option<f64>,
    /// What it may be at most.
    pub limit: Option<f64>,
    /// Whether it was reached.
    pub is_met: Option<bool>,
}

/// The cost of one run at one size.
#[derive(Deserialize)]
pub struct Growth {
    /// Count of files.
    pub files: f64,
    /// Count of guests.
    pub guests: f64,
    /// Which run.
    pub run: String,
    /// From beginning to end.
    pub seconds: Option<f64>,
    /// The most memory at once.
    pub peak_bytes: Option<f64>,
}
