//! The rows that are measured on generated guests: many small files, a store with many objects, and
//! how cost grows.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use walkdir::WalkDir;

use crate::generated;
use crate::measure::Fresh;
use crate::place::remove;
use crate::results::{Growth, Role, Row};
use crate::tools::{FIND, FIND_ORPHANS, GC, Tool, VHASHIFY};
use crate::{Settings, note};

/// Finding duplicates among many small files in a hundred guests: time and memory.
pub fn finding(settings: &Settings, tools: &[&'static Tool], place: &Path) -> Result<Vec<Row>> {
    const GUESTS: usize = 100;
    let guests = place.join("generated");
    note(&format!("Making {} small files", settings.files));
    generated::make(&guests, settings.files, GUESTS)?;
    let mut runs = vec![Vec::new(); tools.len() + 1];
    for round in 0..settings.rounds {
        for turn in 0..tools.len() {
            let number = (turn + round) % tools.len();
            let tool = tools[number];
            let Some(dry_run) = tool.dry_run.filter(|_| !tool.is_slow || round == 0) else {
                continue;
            };
            let fresh = Fresh::beside(place, &guests)?;
            let (limit, _) = fresh.measure(FIND, round)?;
            runs[tools.len()].push(limit);
            let measure = match fresh.measure(dry_run, round) {
                Err(error) if tool.name != VHASHIFY.name => {
                    note(&format!("{}: {error:#}", tool.name));
                    continue;
                }
                measured => measured?.0,
            };
            note(&format!(
                "Round {}: small files {:<12} {:>8.2} s, {:>5.0} bytes a file",
                round + 1,
                tool.name,
                measure.seconds,
                measure.peak_bytes / settings.files as f64
            ));
            runs[number].push(measure);
        }
    }
    remove(&guests)?;
    let files = settings.files as f64;
    let setting = format!("{files} files in {GUESTS} guests, nine of ten in all of them");
    let mut rows = Vec::new();
    for (id, what) in [
        ("memory", "peak memory, finding among small files"),
        ("small-files", "finding duplicates among small files"),
    ] {
        let mut row = Row::new(id, what, setting.clone(), files);
        for (tool, runs) in tools.iter().zip(&runs) {
            let is_own = tool.name == VHASHIFY.name;
            row.add(tool.name, if is_own { Role::Own } else { Role::Peer }, runs);
        }
        row.add("find -printf", Role::Limit, &runs[tools.len()]);
        if id == "memory" {
            row.at_most_bytes_a_file(80.0);
        } else {
            row.at_most_fastest_peer(0.4);
        }
        rows.push(row);
    }
    Ok(rows)
}

/// What `gc` waits for, and what was tried.
const COLLECTING: &str = "Half of the time is the walk by two threads, which takes half as long as `find`. The rest is what \
    find does not do, the removal: ext4 lets a marked inode go only once its journal is on the disk. One after the other \
    that took 0.7 ms each; all of them wait together now.";

/// `gc` of a store in which one object of a hundred is nobody's, beside the `find` that finds them.
pub fn collection(settings: &Settings, place: &Path) -> Result<Row> {
    const GUESTS: usize = 2;
    let objects = if settings.is_full { 100_000 } else { 20_000 };
    let pristine = place.join("generated");
    // Nine of ten are shared and become objects.
    generated::make(&pristine, GUESTS * objects * 10 / 9, GUESTS)?;
    let fresh = Fresh::copy(place, &pristine)?;
    remove(&pristine)?;
    fresh.measure(VHASHIFY.run.context("vhashify links")?, 0)?;
    let (mut own, mut limit) = (Vec::new(), Vec::new());
    let mut orphans = 0;
    for round in 0..settings.rounds {
        // Removes one file of a hundred from every guest, another one in each round.
        let mut number = 0;
        for entry in WalkDir::new(&fresh.guests).sort_by_file_name() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            let digits = name.strip_prefix("some-file-");
            let Some(file) = digits.and_then(|rest| rest.strip_suffix(".dat")) else {
                continue;
            };
            if file.parse::<usize>()? % 100 == round + 1 {
                fs::remove_file(entry.path())?;
                number += 1;
            }
        }
        orphans = number / GUESTS;
        note(&format!("gc with {orphans} orphans"));
        limit.push(fresh.measure(FIND_ORPHANS, round)?.0);
        own.push(fresh.measure(GC, round)?.0);
    }
    let setting = format!("{objects} objects, {orphans} orphans");
    let mut row = Row::new("gc", "gc", setting, objects as f64);
    row.add(VHASHIFY.name, Role::Own, &own);
    row.add("find -links 1", Role::Limit, &limit);
    row.at_most_limit("find -links 1", 0.5);
    row.note = Some(COLLECTING);
    Ok(row)
}

/// Dry run, first run and a run with nothing new at several sizes.
pub fn growth(settings: &Settings, place: &Path) -> Result<Vec<Growth>> {
    let most = settings.files;
    let sizes = [most / 100, most / 10, most].map(|files| (files.max(1000), 100));
    // The same files in more and more guests.
    let spread = [2, 20, 200].map(|guests| (most / 10, guests));
    let mut grown = Vec::new();
    for (files, guests) in sizes.into_iter().chain(spread) {
        note(&format!("Growth: {files} files in {guests} guests"));
        let pristine = place.join("generated");
        generated::make(&pristine, files, guests)?;
        let fresh = Fresh::beside(place, &pristine)?;
        for (run, command) in [
            ("dry-run", VHASHIFY.dry_run),
            ("first-run", VHASHIFY.run),
            ("nothing-new", VHASHIFY.again),
        ] {
            let (measure, _) = fresh.measure(command.context("vhashify does it")?, 0)?;
            grown.push(Growth {
                files: files as f64,
                guests: guests as f64,
                run,
                seconds: measure.seconds,
                processor_seconds: measure.processor_seconds,
                peak_bytes: measure.peak_bytes,
            });
        }
        drop(fresh);
        remove(&pristine)?;
    }
    Ok(grown)
}
