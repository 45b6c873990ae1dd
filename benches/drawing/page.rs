//! What was measured, as one HTML page that stands alone, in the look of `vhashify report`.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plots;
use super::results::{Figure, Goal, Results, Role, Row};

/// The look of the report's page, and what plots need besides.
const STYLES: [&str; 3] = [
    include_str!("../../src/report/page/style.css"),
    plots::STYLE,
    include_str!("page.css"),
];

/// The page.
pub fn page(results: &Results) -> Result<String> {
    let rows = results
        .rows
        .iter()
        .map(row)
        .collect::<Result<Vec<Markup>>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "vhashify beside other tools" }
                @for style in STYLES { style { (PreEscaped(style)) } }
            }
            body {
                header {
                    h1 { "vhashify beside other tools" }
                    p.soft { (machine(results)) }
                }
                main {
                    section {
                        h3 { "Goals" }
                        (goals(results))
                    }
                    @for row in rows { (row) }
                    (growth(results)?)
                }
                footer.soft.small {
                    p {
                        "Bars are medians over the rounds, whiskers the quickest and the slowest round, the "
                        "upright line is the goal. Ratios are taken round by round. A limit is what no tool "
                        "that does the same work can be much quicker than, measured in the same rounds."
                    }
                }
            }
        }
    };
    Ok(page.into_string())
}

fn machine(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = format!(
        "{}, {} threads, {} of memory, Linux {}, {}; {} form",
        machine.processor,
        machine.threads,
        bytes(machine.memory),
        machine.kernel,
        machine.filesystem,
        results.form
    );
    if !results.absent.is_empty() {
        text.push_str("; not installed: ");
        text.push_str(&results.absent.join(", "));
    }
    text
}

/// Every goal of every row, and whether it was reached.
fn goals(results: &Results) -> Markup {
    let all: Vec<(&Row, &Goal)> = results
        .rows
        .iter()
        .flat_map(|row| row.goals.iter().map(move |goal| (row, goal)))
        .collect();
    let met = all
        .iter()
        .filter(|(_, goal)| goal.is_met == Some(true))
        .count();
    html! {
        p.soft.small { (met) " of " (all.len()) " are met." }
        table {
            thead {
                tr {
                    th scope="col" { "What" }
                    th scope="col" { "Goal" }
                    th.number scope="col" { "Reached" }
                    th.number scope="col" { "" }
                }
            }
            tbody {
                @for (row, goal) in &all {
                    tr {
                        th scope="row" { (row.what) }
                        td.wide {
                            (goal.text)
                            @if let Some(against) = &goal.against { span.soft { " (" (against) ")" } }
                        }
                        td.number data-label="Reached" { (reached(goal)) }
                        td.number { (verdict(goal.is_met)) }
                    }
                }
            }
        }
    }
}

fn reached(goal: &Goal) -> String {
    let Some(value) = goal.value else {
        return "not measured".to_owned();
    };
    let shown = |value: f64| {
        if goal.measure == "seconds" {
            format!("{value:.2}")
        } else {
            format!("{value:.0}")
        }
    };
    let unit = if goal.measure == "seconds" {
        " ×"
    } else {
        " B"
    };
    match (goal.least, goal.most) {
        (Some(least), Some(most)) if least < most => {
            format!("{}{unit} ({}–{})", shown(value), shown(least), shown(most))
        }
        _ => format!("{}{unit}", shown(value)),
    }
}

/// In words, and not by colour alone.
fn verdict(is_met: Option<bool>) -> Markup {
    match is_met {
        Some(true) => html! { span.met { "met" } },
        Some(false) => html! { span.missed { "missed" } },
        None => html! { span.soft { "unknown" } },
    }
}

fn row(row: &Row) -> Result<Markup> {
    let plot = plots::bars(row)?;
    Ok(html! {
        section id=(row.id) {
            h3 { (row.what) }
            p.soft.small { (row.setting) }
            @if !row.figures.is_empty() {
                div.row {
                    div.drawing role="img" aria-label=(format!("Times of {}", row.what)) {
                        (PreEscaped(plot))
                    }
                    (figures(row))
                }
            }
            @if let Some(note) = &row.note { p.small { (note) } }
        }
    })
}

fn figures(row: &Row) -> Markup {
    html! {
        table {
            thead {
                tr {
                    th scope="col" { "" }
                    @for label in ["Spread", "CPU", "Peak", "B/file", "Freed"] { th.number scope="col" { (label) } }
                }
            }
            tbody {
                @for figure in &row.figures {
                    tr {
                        th scope="row" {
                            @if figure.role == Role::Limit { "limit: " }
                            (figure.name)
                            @if let Some(lost) = figure.metadata_lost.as_ref().filter(|lost| !lost.is_empty()) {
                                br;
                                span.soft.small { "loses " (lost.join(", ")) }
                            }
                        }
                        (number("Spread", spread(figure)))
                        (number("CPU", figure.processor_seconds.map(plots::seconds)))
                        (number("Peak", figure.peak_bytes.map(bytes)))
                        (number("B/file", a_file(figure, row)))
                        (number("Freed", figure.bytes_saved.map(bytes)))
                    }
                }
            }
        }
    }
}

fn number(label: &str, value: Option<String>) -> Markup {
    let value = value.unwrap_or_else(|| "–".to_owned());
    html! { td.number data-label=(label) { (value) } }
}

fn spread(figure: &Figure) -> Option<String> {
    let [least, most] = [figure.least?, figure.most?].map(plots::seconds);
    // A unit that both have is written once.
    let unit = most.rfind(' ').map_or("", |at| &most[at..]);
    let least = least.strip_suffix(unit).unwrap_or(&least);
    Some(format!("{least}–{most}"))
}

fn a_file(figure: &Figure, row: &Row) -> Option<String> {
    let files = row.files.filter(|files| *files > 0.0)?;
    Some(format!("{:.0}", figure.peak_bytes? / files))
}

/// How time and memory grow; nothing where that was not measured.
fn growth(results: &Results) -> Result<Markup> {
    let time = plots::growth(&results.growth, |point| {
        Some(1e6 * point.seconds? / point.files)
    })?;
    let memory = plots::growth(&results.growth, |point| {
        Some(point.peak_bytes? / point.files)
    })?;
    if time.is_none() && memory.is_none() {
        return Ok(html! {});
    }
    Ok(html! {
        section {
            h3 { "How cost grows" }
            p.soft.small { "By the number of files; flat is good. " (sizes(results)) "." }
            div.plots {
                @for (title, plot) in [("Microseconds a file", time), ("Bytes of memory a file", memory)] {
                    @if let Some(plot) = plot {
                        figure {
                            figcaption { (title) }
                            div.drawing role="img" aria-label=(title) { (PreEscaped(plot)) }
                        }
                    }
                }
            }
            ul.legend {
                @for (run, class) in plots::RUNS.iter().zip(["shared", "saved", "private"]) {
                    li { i class=(class) {} (run.replace('-', " ")) }
                }
            }
        }
    })
}

/// At which sizes growth was measured.
fn sizes(results: &Results) -> String {
    let mut sizes: Vec<(f64, f64)> = results
        .growth
        .iter()
        .map(|point| (point.files, point.guests))
        .collect();
    sizes.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
    sizes.dedup();
    let sizes: Vec<String> = sizes
        .iter()
        .map(|(files, guests)| format!("{} files in {guests} guests", plots::count(*files)))
        .collect();
    sizes.join(", ")
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Nobody has 16 EB of anything.
fn bytes(count: f64) -> String {
    vhashify::outcome::numbers::bytes(count.max(0.0) as u64)
}
