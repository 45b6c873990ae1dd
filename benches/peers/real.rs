//! The rows that are measured on real guests: finding, linking, nothing new, one new guest, cold, and
//! the verification of the store that came of it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::guests::{self, Extent};
use crate::limits::drop_caches;
use crate::measure::{Fresh, Measure};
use crate::metadata::Metadata;
use crate::place::remove;
use crate::results::{Role, Row};
use crate::tools::{ALL_BUT_NEWEST, B3SUM, FIND, HASH, LINK, LINK_ONE, Tool, VERIFY, VHASHIFY};
use crate::{Settings, note};

const READ_AND_HASH: &str = "read and hash";
const READ_AND_LINK: &str = "read, hash, link";

/// What a profile of the first run shows.
const LINKING: &str = "Four fifths of the processor time of a first run are the kernel's (perf, ext4): a sixth \
    of it evicts the inodes that were replaced, linkat takes a seventh, renameat2 and unlinkat a tenth each, and to watch \
    directories whose times are put back a thirteenth. The exchange costs one more change of the directory than the rename \
    of the limit; it is what lets a replacement be taken back when a writer waits. Tried, without effect here: eight workers in the place of two, \
    and putting times back while the index is written.";

/// What a cold run waits for, and what was tried.
const COLD: &str = "Eight workers wait for the disk at once; with two the same run took half as long again, sixteen \
    were no faster, and eight `cat` that read the same files took as long as these eight. A fifth of the time is the walk, \
    which waits for directories and inodes.";

/// What was measured, by row and tool.
#[derive(Default)]
struct Runs(BTreeMap<(&'static str, &'static str), Vec<Measure>>);

impl Runs {
    fn add(&mut self, row: &'static str, name: &'static str, measure: Measure) {
        self.0.entry((row, name)).or_default().push(measure);
    }

    fn of(&self, row: &'static str, name: &'static str) -> &[Measure] {
        self.0.get(&(row, name)).map_or(&[], Vec::as_slice)
    }
}

/// What the first run of a tool did to the guests.
struct Effect {
    saved: f64,
    lost: Vec<String>,
}

struct Real<'a> {
    settings: &'a Settings,
    place: &'a Path,
    pristine: &'a Path,
    runs: Runs,
    effects: BTreeMap<&'static str, Effect>,
}

/// Measures the rows that are wanted.
pub fn measure(settings: &Settings, tools: &[&'static Tool], place: &Path) -> Result<Vec<Row>> {
    let pristine = place.join("pristine");
    guests::make(&pristine, settings.guests)?;
    let extent = Extent::of(&[&pristine])?;
    let filesystem = rustix::fs::statvfs(place)?;
    ensure!(
        (filesystem.f_bavail * filesystem.f_frsize) as f64 > 1.1 * extent.allocated,
        "{} has no room for a copy of {} guests; set VHASHIFY_BENCH_GUESTS to fewer",
        place.display(),
        settings.guests
    );
    let mut real = Real {
        settings,
        place,
        pristine: &pristine,
        runs: Runs::default(),
        effects: BTreeMap::new(),
    };
    for round in 0..settings.rounds {
        for turn in 0..tools.len() {
            let tool = tools[(turn + round) % tools.len()];
            match real.visit(tool, round) {
                Err(error) if tool.name != VHASHIFY.name => {
                    note(&format!("{}, round {}: {error:#}", tool.name, round + 1));
                }
                visited => visited?,
            }
        }
        real.limits(round)?;
    }
    remove(&pristine)?;
    Ok(real.rows(tools, &extent))
}

impl Real<'_> {
    /// Lets one tool do all that it can on a copy of its own.
    fn visit(&mut self, tool: &Tool, round: usize) -> Result<()> {
        let is_left_out = tool.is_slow && (!self.settings.is_full || round > 0);
        if is_left_out && tool.dry_run.is_none() {
            return Ok(());
        }
        let fresh = Fresh::copy(self.place, self.pristine)?;
        // The limits of finding, which also bring all of it into the page cache.
        self.run(&fresh, "nothing-new", "find -printf", FIND, round)?;
        self.run(&fresh, "dry-run", READ_AND_HASH, HASH, round)?;
        if let Some(dry_run) = tool.dry_run {
            self.run(&fresh, "dry-run", tool.name, dry_run, round)?;
            if self.settings.wants("cold") {
                drop_caches()?;
                self.run(&fresh, "cold", tool.name, dry_run, round)?;
                fresh.measure(HASH, round)?;
            }
        }
        let Some(run) = tool.run.filter(|_| !is_left_out) else {
            return Ok(());
        };
        let before = (round == 0)
            .then(|| Metadata::of(&fresh.guests))
            .transpose()?;
        let held = Extent::of(&[&fresh.guests])?.allocated;
        self.run(&fresh, "first-run", tool.name, run, round)?;
        if let Some(before) = before {
            let result = fresh.place.join(tool.result);
            let holds = if result == fresh.guests {
                Extent::of(&[&result])?
            } else {
                Extent::of(&[&result, &fresh.place.join("repo")])?
            };
            let effect = Effect {
                saved: held - holds.allocated,
                lost: before.lost(&Metadata::of(&result)?),
            };
            self.effects.insert(tool.name, effect);
        }
        if let Some(again) = tool.again {
            self.run(&fresh, "nothing-new", tool.name, again, round)?;
        }
        if tool.name == VHASHIFY.name && self.settings.wants("verify") {
            self.run(&fresh, "verify", "b3sum", B3SUM, round)?;
            self.run(&fresh, "verify", tool.name, VERIFY, round)?;
        }
        Ok(())
    }

    /// The limits that change the guests, and a run with one new guest, which needs a copy of its own.
    fn limits(&mut self, round: usize) -> Result<()> {
        let fresh = Fresh::copy(self.place, self.pristine)?;
        if self.settings.wants("cold") {
            drop_caches()?;
            self.run(&fresh, "cold", READ_AND_HASH, HASH, round)?;
        }
        fresh.measure(HASH, round)?;
        self.run(&fresh, "first-run", READ_AND_LINK, LINK, round)?;
        drop(fresh);
        if !self.settings.wants("new-guest") {
            return Ok(());
        }
        for (name, command) in [
            (VHASHIFY.name, VHASHIFY.run.context("vhashify links")?),
            ("find and link one", LINK_ONE),
        ] {
            let fresh = Fresh::copy(self.place, self.pristine)?;
            fresh.measure(ALL_BUT_NEWEST, round)?;
            fresh.measure(HASH, round)?;
            self.run(&fresh, "new-guest", name, command, round)?;
        }
        Ok(())
    }

    fn run(
        &mut self,
        fresh: &Fresh,
        row: &'static str,
        name: &'static str,
        command: &str,
        round: usize,
    ) -> Result<()> {
        let (measure, _) = fresh.measure(command, round)?;
        // A run over many guests takes long, and one that is killed should not be for nothing.
        note(&format!(
            "Round {}: {row:<12} {name:<16} {:>8.2} s, {:>8.2} s of processor time",
            round + 1,
            measure.seconds,
            measure.processor_seconds
        ));
        self.runs.add(row, name, measure);
        Ok(())
    }

    fn rows(mut self, tools: &[&'static Tool], extent: &Extent) -> Vec<Row> {
        let setting = |cache: &str| {
            format!(
                "{} guests, {} files, {:.0} MiB; {cache}",
                self.settings.guests,
                extent.files,
                extent.allocated / f64::from(1 << 20)
            )
        };
        let (warm, cold) = (setting("page cache warm"), setting("page cache cold"));
        let mut rows = Vec::new();
        for (id, what, setting, limit) in [
            ("first-run", "first run, with links", &warm, READ_AND_LINK),
            ("dry-run", "finding duplicates only", &warm, READ_AND_HASH),
            ("nothing-new", "nothing new", &warm, "find -printf"),
            ("new-guest", "one new guest", &warm, "find and link one"),
            ("cold", "finding only, cold cache", &cold, READ_AND_HASH),
            ("verify", "verify --deep", &warm, "b3sum"),
        ] {
            if !self.settings.wants(id) {
                continue;
            }
            let mut row = Row::new(id, what, setting.clone(), extent.files);
            for tool in tools {
                let role = if tool.name == VHASHIFY.name {
                    Role::Own
                } else {
                    Role::Peer
                };
                let figure = row.add(tool.name, role, self.runs.of(id, tool.name));
                if let Some(figure) = figure.filter(|_| id == "first-run") {
                    let effect = self.effects.remove(tool.name);
                    (figure.bytes_saved, figure.metadata_lost) =
                        effect.map_or((None, None), |it| (Some(it.saved), Some(it.lost)));
                }
            }
            row.add(limit, Role::Limit, self.runs.of(id, limit));
            match id {
                "first-run" => {
                    row.at_most_fastest_peer(0.6);
                    row.at_most_limit(limit, 1.2);
                    row.note = Some(LINKING);
                }
                "dry-run" => row.at_most_fastest_peer(0.4),
                "nothing-new" => row.at_most_limit(limit, 0.8),
                "new-guest" => row.at_most_limit(limit, 1.3),
                "cold" => {
                    row.at_most_fastest_peer(0.9);
                    row.note = Some(COLD);
                }
                _ => row.at_most_limit(limit, 1.1),
            }
            rows.push(row);
        }
        rows
    }
}
