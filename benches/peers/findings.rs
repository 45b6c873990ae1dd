//! What was found, as text: a table for each of the three runs, ratios, and the goals.

use std::fmt::Arguments;

use serde_json::Value;

use crate::guests::Extent;
use crate::measure::Measure;

/// All that was measured of one tool.
pub struct Account {
    /// The tool's name.
    pub name: &'static str,
    /// Its dry runs.
    pub dry: Vec<Measure>,
    /// Its first runs, with links.
    pub first: Vec<Measure>,
    /// Its runs with nothing new.
    pub nothing: Vec<Measure>,
    /// Bytes that its first run freed on the disk.
    pub freed: f64,
    /// What vhashify reported of its first runs.
    pub first_told: Vec<Value>,
    /// What vhashify reported of its runs with nothing new.
    pub nothing_told: Vec<Value>,
}

impl Account {
    /// Nothing yet.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            dry: Vec::new(),
            first: Vec::new(),
            nothing: Vec::new(),
            freed: 0.0,
            first_told: Vec::new(),
            nothing_told: Vec::new(),
        }
    }
}

/// What no tool that does the same work can be much quicker than.
pub struct Limit {
    /// What is done.
    pub name: &'static str,
    /// How long it took; several times a round.
    pub measures: Vec<Measure>,
}

impl Limit {
    /// Nothing yet.
    pub fn new(name: &'static str) -> Self {
        let measures = Vec::new();
        Self { name, measures }
    }
}

/// One of the three runs of an account.
type Runs = fn(&Account) -> &[Measure];

/// Everything that was found.
pub struct Findings {
    /// vhashify's account, then those of its peers.
    pub accounts: Vec<Account>,
    /// The limit of a run with nothing new.
    pub find: Limit,
    /// The limit of finding what is the same.
    pub hash: Limit,
    /// Peers that are not installed.
    pub absent: Vec<&'static str>,
    /// vhashify on guests without any file.
    pub fixed: Vec<Measure>,
    /// What the guests amount to.
    pub extent: Extent,
    /// How many there are.
    pub guests: usize,
    /// How many rounds were measured.
    pub rounds: usize,
}

impl Findings {
    /// For people, on 80 columns.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let Extent { files, allocated } = self.extent;
        let (guests, rounds, size) = (self.guests, self.rounds, mebibytes(allocated));
        line(
            &mut out,
            format_args!(
                "\n{guests} guests, {files} files, {size:.0} MiB; page cache warm; rounds: {rounds}"
            ),
        );
        if !self.absent.is_empty() {
            let absent = self.absent.join(", ");
            line(&mut out, format_args!("Not installed: {absent}"));
        }
        self.table(&mut out, "Dry run", |account| &account.dry, &self.hash);
        let first: Runs = |account| &account.first;
        self.table(&mut out, "First run, with links", first, &self.hash);
        stages(&mut out, &self.accounts[0].first_told);
        line(
            &mut out,
            format_args!("\n{:<22}{:>8}", "Freed on disk", "MiB"),
        );
        for Account { name, freed, .. } in &self.accounts {
            line(
                &mut out,
                format_args!("  {name:<20}{:>8.0}", mebibytes(*freed)),
            );
        }
        let nothing: Runs = |account| &account.nothing;
        self.table(&mut out, "Nothing new", nothing, &self.find);
        stages(&mut out, &self.accounts[0].nothing_told);
        self.goals(&mut out);
        out
    }

    fn table(&self, out: &mut String, title: &str, runs: Runs, limit: &Limit) {
        line(
            out,
            format_args!(
                "\n{title:<22}{:>8}{:>16}{:>9}{:>10}{:>9}",
                "median s", "min–max s", "CPU s", "peak MiB", "B/file"
            ),
        );
        for account in &self.accounts {
            self.row(out, account.name, runs(account));
        }
        self.row(out, &format!("limit: {}", limit.name), &limit.measures);
        let own = runs(&self.accounts[0]);
        for (which, peer) in [
            ("slowest", self.slowest(runs)),
            ("fastest", self.fastest(runs)),
        ] {
            if let Some(peer) = peer {
                let ratio = Ratio::of(own, runs(peer)).text();
                let name = peer.name;
                line(
                    out,
                    format_args!("  vhashify / {which} peer: {ratio} × {name}"),
                );
            }
        }
        let ratio = Ratio::of(own, &limit.measures).text();
        line(
            out,
            format_args!("  vhashify / limit: {ratio} × {}", limit.name),
        );
    }

    fn row(&self, out: &mut String, name: &str, measures: &[Measure]) {
        let seconds = || measures.iter().map(|measure| measure.seconds);
        let least = seconds().fold(f64::MAX, f64::min);
        let most = seconds().fold(0.0, f64::max);
        let processor = median(measures.iter().map(|measure| measure.processor_seconds));
        let peak = peak(measures);
        line(
            out,
            format_args!(
                "  {name:<20}{:>8.2}{:>16}{processor:>9.2}{:>10.1}{:>9.0}",
                median(seconds()),
                format!("{least:.2}–{most:.2}"),
                mebibytes(peak),
                peak / self.extent.files
            ),
        );
    }

    /// One line for each number that the first working version has to reach.
    fn goals(&self, out: &mut String) {
        line(out, format_args!("\nGoals"));
        let rows: [(&str, Runs); 2] = [
            ("First run", |account| &account.first),
            ("Nothing new", |account| &account.nothing),
        ];
        let own = &self.accounts[0];
        for (what, runs) in rows {
            let Some(peer) = self.slowest(runs) else {
                line(out, format_args!("  {what}: unknown, no peer is installed"));
                continue;
            };
            let ratio = Ratio::of(runs(own), runs(peer));
            let (text, name, met) = (ratio.text(), peer.name, met(ratio.median <= 1.0));
            line(
                out,
                format_args!("  {what}, at most the slowest peer: {met}, {text} × {name}"),
            );
        }
        let most = peak(&own.first).max(peak(&own.nothing));
        let fixed = peak(&self.fixed);
        let (whole, growing) = (most / self.extent.files, (most - fixed) / self.extent.files);
        let met = met(whole < 200.0);
        line(
            out,
            format_args!("  Memory, under 200 bytes a file: {met}, {whole:.0} at the peak"),
        );
        line(
            out,
            format_args!(
                "    ({growing:.0} without the {:.1} MiB that a run without any file takes, too)",
                mebibytes(fixed)
            ),
        );
    }

    fn slowest(&self, runs: Runs) -> Option<&Account> {
        let typical = |account: &&Account| typical(runs(account));
        let peers = self.accounts[1..].iter();
        peers.max_by(|one, other| typical(one).total_cmp(&typical(other)))
    }

    fn fastest(&self, runs: Runs) -> Option<&Account> {
        let typical = |account: &&Account| typical(runs(account));
        let peers = self.accounts[1..].iter();
        peers.min_by(|one, other| typical(one).total_cmp(&typical(other)))
    }
}

/// Where vhashify's own time went, by what it says itself.
fn stages(out: &mut String, told: &[Value]) {
    let stages = ["load", "scan", "group", "unify", "index"].map(|stage| {
        let seconds = told
            .iter()
            .filter_map(|report| report["seconds"][stage].as_f64());
        format!("{stage} {:.2}", median(seconds))
    });
    line(
        out,
        format_args!("  vhashify's stages, s: {}", stages.join(", ")),
    );
}

/// How many times longer one series of runs took than another, compared round by round.
struct Ratio {
    median: f64,
    least: f64,
    most: f64,
}

impl Ratio {
    fn of(own: &[Measure], other: &[Measure]) -> Self {
        let ratios: Vec<f64> = own
            .iter()
            .map(|measure| {
                let same_round = other.iter().filter(|other| other.round == measure.round);
                measure.seconds / median(same_round.map(|other| other.seconds))
            })
            .collect();
        Self {
            median: median(ratios.iter().copied()),
            least: ratios.iter().copied().fold(f64::MAX, f64::min),
            most: ratios.iter().copied().fold(0.0, f64::max),
        }
    }

    fn text(&self) -> String {
        let Self {
            median,
            least,
            most,
        } = self;
        format!("{median:.2} ({least:.2}–{most:.2})")
    }
}

fn typical(measures: &[Measure]) -> f64 {
    median(measures.iter().map(|measure| measure.seconds))
}

fn peak(measures: &[Measure]) -> f64 {
    median(measures.iter().map(|measure| measure.peak_bytes))
}

/// Of an even number of values, the mean of the two in the middle; NaN of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn line(out: &mut String, text: Arguments<'_>) {
    out.push_str(&text.to_string());
    out.push('\n');
}
