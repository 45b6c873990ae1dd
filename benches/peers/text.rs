//! The results for people, as Markdown that reads well on a terminal, too.

use std::fmt::Write as _;

use crate::results::{Figure, Goal, Results, Role, Row};

/// All of it: the table of goals first, then what it was made from.
pub fn text(results: &Results) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _written = write(&mut out, results);
    out
}

fn write(out: &mut String, results: &Results) -> std::fmt::Result {
    let machine = &results.machine;
    writeln!(
        out,
        "# vhashify beside its peers ({} form)\n\n{}, {} threads, {:.0} GiB, Linux {}, {}",
        results.form,
        machine.processor,
        machine.threads,
        machine.memory / f64::from(1 << 30),
        machine.kernel,
        machine.filesystem
    )?;
    if !results.absent.is_empty() {
        writeln!(out, "\nNot installed: {}", results.absent.join(", "))?;
    }
    writeln!(
        out,
        "\n| what | vhashify | best peer | limit | goal | reached |\n| --- | --- | --- | --- | --- | --- |"
    )?;
    for row in &results.rows {
        summary(out, row)?;
    }
    for row in &results.rows {
        details(out, row)?;
    }
    if !results.growth.is_empty() {
        writeln!(
            out,
            "\n## How cost grows\n\n| files | guests | run | s | CPU s | CPU µs a file | peak MiB | B a file |\n| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
        )?;
    }
    for at in &results.growth {
        writeln!(
            out,
            "| {} | {} | {} | {:.2} | {:.2} | {:.1} | {:.1} | {:.0} |",
            at.files,
            at.guests,
            at.run,
            at.seconds,
            at.processor_seconds,
            at.processor_seconds / at.files * 1e6,
            mebibytes(at.peak_bytes),
            at.peak_bytes / at.files
        )?;
    }
    Ok(())
}

/// One line of the table for each goal.
fn summary(out: &mut String, row: &Row) -> std::fmt::Result {
    for goal in &row.goals {
        let is_memory = goal.measure == "bytes a file";
        let told = |figure: &Figure| {
            if is_memory {
                format!("{:.0} B a file", figure.peak_bytes / row.files)
            } else {
                format!("{:.2} s", figure.seconds)
            }
        };
        let named = |figure: Option<&Figure>| {
            figure.map_or_else(
                || "-".to_owned(),
                |figure| format!("{} {}", figure.name, told(figure)),
            )
        };
        let of = |role| row.figures.iter().filter(move |figure| figure.role == role);
        let cost = |figure: &&Figure| {
            if is_memory {
                figure.peak_bytes
            } else {
                figure.seconds
            }
        };
        let best = of(Role::Peer).min_by(|one, other| cost(one).total_cmp(&cost(other)));
        let limit = of(Role::Limit).next().filter(|_| !is_memory);
        let own = of(Role::Own).next().map_or_else(String::new, told);
        writeln!(
            out,
            "| {} | {own} | {} | {} | {} | {} |",
            row.what,
            named(best),
            named(limit),
            goal.text,
            reached(goal)
        )?;
    }
    Ok(())
}

fn reached(goal: &Goal) -> String {
    let Goal {
        value, least, most, ..
    } = goal;
    match goal.is_met {
        None => "unknown".to_owned(),
        Some(is_met) => {
            let word = if is_met { "met" } else { "missed" };
            if goal.measure == "seconds" {
                let processor = goal.processor.unwrap_or(f64::NAN);
                format!("{word}: {value:.2} ({least:.2} to {most:.2}); CPU {processor:.2}")
            } else {
                format!("{word}: {value:.0}")
            }
        }
    }
}

fn details(out: &mut String, row: &Row) -> std::fmt::Result {
    writeln!(out, "\n## {}\n\n{}\n", row.what, row.setting)?;
    let links = row.figures.iter().any(|one| one.bytes_saved.is_some());
    write!(out, "| | s | least to most | CPU s | peak MiB | B a file |")?;
    writeln!(out, "{}", if links { " MiB saved | lost |" } else { "" })?;
    write!(out, "| --- | ---: | --- | ---: | ---: | ---: |")?;
    writeln!(out, "{}", if links { " ---: | --- |" } else { "" })?;
    for figure in &row.figures {
        let limit = if figure.role == Role::Limit {
            "limit: "
        } else {
            ""
        };
        write!(
            out,
            "| {limit}{} | {:.2} | {:.2} to {:.2} | {:.2} | {:.1} | {:.0} |",
            figure.name,
            figure.seconds,
            figure.least,
            figure.most,
            figure.processor_seconds,
            mebibytes(figure.peak_bytes),
            figure.peak_bytes / row.files
        )?;
        if links {
            let saved = figure
                .bytes_saved
                .map_or_else(String::new, |saved| format!("{:.0}", mebibytes(saved)));
            let lost = match figure.metadata_lost.as_deref() {
                None => String::new(),
                Some([]) => "nothing".to_owned(),
                Some(lost) => lost.join(", "),
            };
            write!(out, " {saved} | {lost} |")?;
        }
        writeln!(out)?;
    }
    if let Some(note) = row.note {
        writeln!(out, "\n{note}")?;
    }
    Ok(())
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}
