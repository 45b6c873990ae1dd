//! What was measured, in the form that `benches/README.md` describes.

use serde::Serialize;

use crate::measure::Measure;

/// Changes when a member changes its meaning.
pub const FORMAT: u32 = 1;

/// Everything.
#[derive(Serialize)]
pub struct Results {
    pub format: u32,
    /// Whether it is the quick or the full form.
    pub form: &'static str,
    pub machine: Machine,
    /// Tools that are not installed.
    pub absent: Vec<&'static str>,
    /// The rows of the table.
    pub rows: Vec<Row>,
    /// How cost grows.
    pub growth: Vec<Growth>,
}

/// Where it was measured.
#[derive(Serialize)]
pub struct Machine {
    pub kernel: String,
    pub processor: String,
    pub threads: usize,
    pub memory: f64,
    pub filesystem: &'static str,
}

/// One row of the table.
#[derive(Serialize)]
pub struct Row {
    pub id: &'static str,
    pub what: &'static str,
    /// What it was measured on.
    pub setting: String,
    pub files: f64,
    /// vhashify's, then those of its peers, then limits.
    pub figures: Vec<Figure>,
    pub goals: Vec<Goal>,
    /// What is in the way, where a goal is missed.
    pub note: Option<&'static str>,
}

/// Whose figure it is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Own,
    Peer,
    Limit,
}

/// What was measured of one tool.
#[derive(Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub role: Role,
    pub seconds: f64,
    pub least: f64,
    pub most: f64,
    pub processor_seconds: f64,
    pub peak_bytes: f64,
    pub bytes_saved: Option<f64>,
    pub metadata_lost: Option<Vec<String>>,
    pub runs: Vec<Measure>,
}

/// What is to be reached, and what was.
#[derive(Serialize)]
pub struct Goal {
    pub text: String,
    pub against: Option<&'static str>,
    pub measure: &'static str,
    pub value: f64,
    pub least: f64,
    pub most: f64,
    /// The same ratio of processor time, which says more on a machine that others use, too.
    pub processor: Option<f64>,
    pub limit: f64,
    /// `None` where there is nothing to compare with.
    pub is_met: Option<bool>,
}

/// Cost at one size.
#[derive(Serialize)]
pub struct Growth {
    pub files: f64,
    pub guests: f64,
    pub run: &'static str,
    pub seconds: f64,
    pub processor_seconds: f64,
    pub peak_bytes: f64,
}

impl Figure {
    /// Of a tool that was run at least once.
    pub fn new(name: &'static str, role: Role, runs: &[Measure]) -> Self {
        let seconds = || runs.iter().map(|run| run.seconds);
        Self {
            name,
            role,
            seconds: median(seconds()),
            least: seconds().fold(f64::MAX, f64::min),
            most: seconds().fold(0.0, f64::max),
            processor_seconds: median(runs.iter().map(|run| run.processor_seconds)),
            peak_bytes: median(runs.iter().map(|run| run.peak_bytes)),
            bytes_saved: None,
            metadata_lost: None,
            runs: runs.to_vec(),
        }
    }
}

impl Row {
    /// A row without a goal.
    pub fn new(id: &'static str, what: &'static str, setting: String, files: f64) -> Self {
        Self {
            id,
            what,
            setting,
            files,
            figures: Vec::new(),
            goals: Vec::new(),
            note: None,
        }
    }

    /// Adds what was measured of a tool, if it was.
    pub fn add(&mut self, name: &'static str, role: Role, runs: &[Measure]) -> Option<&mut Figure> {
        if runs.is_empty() {
            return None;
        }
        self.figures.push(Figure::new(name, role, runs));
        self.figures.last_mut()
    }

    /// The goal of taking at most `limit` times as long as the peer that is quickest.
    pub fn at_most_fastest_peer(&mut self, limit: f64) {
        let peers = self.figures.iter().filter(|one| one.role == Role::Peer);
        let fastest = peers.min_by(|one, other| one.seconds.total_cmp(&other.seconds));
        let name = fastest.map(|peer| peer.name);
        self.at_most(format!("at most {limit} × the fastest peer"), name, limit);
    }

    /// The goal of taking at most `limit` times as long as `name`.
    pub fn at_most_limit(&mut self, name: &'static str, limit: f64) {
        self.at_most(format!("at most {limit} × {name}"), Some(name), limit);
    }

    fn at_most(&mut self, text: String, against: Option<&'static str>, limit: f64) {
        let runs = |name| {
            let found = self.figures.iter().find(|one| one.name == name);
            found.map_or(&[][..], |figure| &figure.runs)
        };
        let (own, other) = (runs("vhashify"), against.map_or(&[][..], runs));
        let ratios: Vec<f64> = own
            .iter()
            .filter_map(|run| {
                let same_round = other.iter().filter(|other| other.round == run.round);
                let other = median(same_round.map(|other| other.seconds));
                (!other.is_nan()).then_some(run.seconds / other)
            })
            .collect();
        let processor = |runs: &[Measure]| median(runs.iter().map(|run| run.processor_seconds));
        let ratio = processor(own) / processor(other);
        self.goal(text, against, "seconds", &ratios, limit);
        if let Some(goal) = self.goals.last_mut() {
            goal.processor = (!ratio.is_nan()).then_some(ratio);
        }
    }

    /// The goal of needing at most `limit` bytes of memory for each file.
    pub fn at_most_bytes_a_file(&mut self, limit: f64) {
        let own = self.figures.iter().find(|one| one.name == "vhashify");
        let bytes: Vec<f64> = own
            .map_or(&[][..], |own| &own.runs)
            .iter()
            .map(|run| run.peak_bytes / self.files)
            .collect();
        let text = format!("at most {limit} bytes a file");
        self.goal(text, None, "bytes a file", &bytes, limit);
    }

    fn goal(
        &mut self,
        text: String,
        against: Option<&'static str>,
        measure: &'static str,
        values: &[f64],
        limit: f64,
    ) {
        let value = median(values.iter().copied());
        self.goals.push(Goal {
            text,
            against,
            measure,
            value,
            least: values.iter().copied().fold(f64::MAX, f64::min),
            most: values.iter().copied().fold(0.0, f64::max),
            processor: None,
            limit,
            is_met: (!value.is_nan()).then_some(value <= limit),
        });
    }
}

/// Of an even number of values, the mean of the two in the middle; NaN of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}
