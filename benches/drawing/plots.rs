//! The plots, as SVG. `plotters` draws them, which criterion brings along anyway.
//!
//! Everything is drawn in the few colours of [`colours`], one for each meaning. The style that goes
//! with a drawing ([`STYLE`]) gives each its look in light and in dark, so that one drawing does for
//! both, in a page and as a picture that stands alone.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::results::{Figure, Growth, Results, Role, Row};

/// What each colour of a drawing looks like.
pub const STYLE: &str = include_str!("plots.css");

/// One colour for each meaning. Only [`STYLE`] says how they look; these are its light ones.
mod colours {
    use plotters::style::RGBColor;

    pub const INK: RGBColor = RGBColor(0x1B, 0x24, 0x30);
    pub const SOFT: RGBColor = RGBColor(0x56, 0x61, 0x70);
    pub const LINE: RGBColor = RGBColor(0xDD, 0xE2, 0xE8);
    pub const OWN: RGBColor = RGBColor(0x2C, 0x8A, 0x57);
    pub const PEER: RGBColor = RGBColor(0x9A, 0xA7, 0xB6);
    pub const LIMIT: RGBColor = RGBColor(0x1F, 0x6F, 0xB2);
    /// The runs of a plot of growth, in the order of [`super::RUNS`].
    pub const RUNS: [RGBColor; 3] = [LIMIT, OWN, RGBColor(0xB4, 0x53, 0x2A)];
}

/// The runs whose growth is drawn.
pub const RUNS: [&str; 3] = ["dry-run", "first-run", "nothing-new"];

/// Width of a drawing that is readable on a phone.
const WIDTH: i32 = 320;

/// Height of one bar with its label.
const BAR: i32 = 40;

/// Size of letters, as plotters counts it: they are a fifth smaller then.
const LETTERS: i32 = 15;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The times of one row as bars, with their spread and where the goal is.
pub fn bars(row: &Row) -> Result<String> {
    drawing(WIDTH, height(row), |area| {
        draw_bars(area, row, WIDTH).map_err(|error| anyhow!("{error}"))
    })
}

fn height(row: &Row) -> i32 {
    BAR * i32::try_from(row.figures.len().max(1)).unwrap_or(1)
}

/// Draws one bar below the other; the longest has all of the width.
fn draw_bars(area: &Area<'_>, row: &Row, width: i32) -> Result<()> {
    let most = row
        .figures
        .iter()
        .flat_map(|figure| [figure.most, figure.seconds])
        .flatten()
        .fold(0.0, f64::max);
    let goal = goal_seconds(row);
    for (at, figure) in (0..).zip(&row.figures) {
        let top = at * BAR;
        let (label, value) = (figure.name.as_str(), seconds_shown(figure));
        write(area, label, (0, top), colours::INK, HPos::Left)?;
        write(area, &value, (width, top), colours::SOFT, HPos::Right)?;
        let Some(seconds) = figure.seconds.filter(|_| most > 0.0) else {
            continue;
        };
        let reach = |seconds: f64| pixels(f64::from(width) * seconds / most);
        let (from, to) = (top + 18, top + 28);
        let bar = Rectangle::new(
            [(0, from), (reach(seconds).max(1), to)],
            colour_of(figure.role).filled(),
        );
        area.draw(&bar).map_err(|error| anyhow!("{error}"))?;
        let middle = top + 23;
        if let (Some(least), Some(most)) = (figure.least, figure.most) {
            line(area, [(reach(least), middle), (reach(most), middle)])?;
            for end in [least, most] {
                line(area, [(reach(end), middle - 3), (reach(end), middle + 3)])?;
            }
        }
        if let Some(goal) = goal.filter(|_| figure.role == Role::Own) {
            let at = reach(goal.min(most)).min(width - 1);
            line(area, [(at, from - 3), (at, to + 3)])?;
        }
    }
    Ok(())
}

/// Where the strictest goal of time is: a part of what another one took.
fn goal_seconds(row: &Row) -> Option<f64> {
    row.goals
        .iter()
        .filter(|goal| goal.measure == "seconds")
        .filter_map(|goal| {
            let against = goal.against.as_ref()?;
            let other = row.figures.iter().find(|figure| figure.name == *against)?;
            Some(goal.limit? * other.seconds?)
        })
        .min_by(f64::total_cmp)
}

/// How a time is written.
pub fn seconds_shown(figure: &Figure) -> String {
    figure
        .seconds
        .map_or_else(|| "not measured".to_owned(), seconds)
}

/// Seconds with three digits or so.
pub fn seconds(count: f64) -> String {
    match count {
        _ if count < 1.0 => format!("{:.0} ms", count * 1000.0),
        _ if count < 10.0 => format!("{count:.2} s"),
        _ if count < 100.0 => format!("{count:.1} s"),
        _ => format!("{count:.0} s"),
    }
}

fn colour_of(role: Role) -> RGBColor {
    match role {
        Role::Own => colours::OWN,
        Role::Peer => colours::PEER,
        Role::Limit => colours::LIMIT,
    }
}

/// How a measure grows with the number of files, one line for each run; `None` where too little was
/// measured for a line.
pub fn growth(
    points: &[Growth],
    measure: impl Fn(&Growth) -> Option<f64>,
) -> Result<Option<String>> {
    const HEIGHT: i32 = 220;
    let series: Vec<(RGBColor, Vec<(f64, f64)>)> = RUNS
        .iter()
        .zip(colours::RUNS)
        .map(|(run, colour)| {
            let of_run = points.iter().filter(|point| point.run == *run);
            let mut line: Vec<(f64, f64)> = of_run
                .filter_map(|point| Some((point.files, measure(point)?)))
                .filter(|(files, _)| *files >= 1.0)
                .collect();
            line.sort_by(|one, other| one.0.total_cmp(&other.0));
            (colour, line)
        })
        .collect();
    let all = || series.iter().flat_map(|(_, line)| line);
    let first = all().map(|point| point.0).fold(f64::MAX, f64::min);
    let last = all().map(|point| point.0).fold(0.0, f64::max);
    let most = all().map(|point| point.1).fold(0.0, f64::max);
    if first >= last || most <= 0.0 {
        return Ok(None);
    }
    let svg = drawing(WIDTH, HEIGHT, |area| {
        let text = |colour: RGBColor| ("sans-serif", LETTERS).into_font().color(&colour);
        let mut chart = ChartBuilder::on(area)
            .margin_top(8)
            .margin_right(24)
            .x_label_area_size(24)
            .y_label_area_size(46)
            .build_cartesian_2d((first..last).log_scale(), 0.0..most * 1.1)
            .map_err(|error| anyhow!("{error}"))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(colours::LINE)
            .light_line_style(TRANSPARENT)
            .axis_style(colours::SOFT)
            .label_style(text(colours::SOFT))
            .x_labels(4)
            .y_labels(5)
            .x_label_formatter(&|files| count(*files))
            .y_label_formatter(&|value| count(*value))
            .draw()
            .map_err(|error| anyhow!("{error}"))?;
        for (colour, line) in series {
            let points = line
                .iter()
                .map(|&point| Circle::new(point, 3, colour.filled()));
            chart
                .draw_series(points)
                .map_err(|error| anyhow!("{error}"))?;
            let joined = LineSeries::new(line.iter().copied(), colour.stroke_width(2));
            chart
                .draw_series(joined)
                .map_err(|error| anyhow!("{error}"))?;
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

/// A count on an axis: `10 k`, `1 M`.
pub fn count(number: f64) -> String {
    match number {
        _ if number >= 1e6 => format!("{} M", number / 1e6),
        _ if number >= 1e3 => format!("{} k", number / 1e3),
        _ => format!("{number}"),
    }
}

/// The rows of a night's work beside one another, as a picture for the README.
pub fn picture(results: &Results) -> Result<String> {
    const ROWS: [&str; 3] = ["first-run", "dry-run", "nothing-new"];
    /// Between two columns, and around all.
    const GAP: i32 = 24;
    /// Above the bars: what they are.
    const HEAD: i32 = 44;
    let rows: Vec<&Row> = ROWS
        .iter()
        .filter_map(|id| results.rows.iter().find(|row| row.id == *id))
        .collect();
    let columns = i32::try_from(rows.len().max(1)).unwrap_or(1);
    let column = (840 - GAP * (columns + 1)) / columns;
    let tallest = rows.iter().map(|row| height(row)).max().unwrap_or(BAR);
    let setting = rows.first().map_or("", |row| row.setting.as_str());
    let size = (840, GAP + HEAD + tallest + 2 * GAP);
    let svg = drawing(size.0, size.1, |area| {
        for (at, row) in (0..).zip(&rows) {
            let left = GAP + at * (column + GAP);
            let part = area.clone().shrink((left, GAP), (column, size.1 - GAP));
            let title = ("sans-serif", 18, FontStyle::Bold).into_font();
            let title = title.color(&colours::INK);
            part.draw(&Text::new(capitalised(&row.what), (0, 0), title))
                .map_err(|error| anyhow!("{error}"))?;
            let bars = part.shrink((0, HEAD - 8), (column, tallest));
            draw_bars(&bars, row, column)?;
        }
        let foot = format!("{setting}. Bars: median; whiskers: spread; upright line: goal.");
        write(area, &foot, (GAP, size.1 - GAP), colours::SOFT, HPos::Left)
    })?;
    // As a picture it has a ground and a style of its own.
    let ground = format!(
        "<style>{STYLE}</style><rect width=\"100%\" height=\"100%\" rx=\"10\" class=\"ground\"/>"
    );
    let start = svg.find('>').map_or(0, |end| end + 1);
    let mut picture = svg;
    picture.insert_str(start, &ground);
    Ok(picture)
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// Draws on an area of this size.
fn drawing(width: i32, height: i32, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let size = (width.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(|error| anyhow!("{error}"))?;
    }
    Ok(svg)
}

fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    colour: RGBColor,
    horizontal: HPos,
) -> Result<()> {
    let style = ("sans-serif", LETTERS).into_font().color(&colour);
    let style = style.pos(Pos::new(horizontal, VPos::Top));
    area.draw(&Text::new(text.to_owned(), at, style))
        .map_err(|error| anyhow!("{error}"))
}

fn line(area: &Area<'_>, points: [(i32, i32); 2]) -> Result<()> {
    let path = PathElement::new(points, colours::INK.stroke_width(1));
    area.draw(&path).map_err(|error| anyhow!("{error}"))
}

#[allow(clippy::cast_possible_truncation)] // At most the width of a drawing.
fn pixels(position: f64) -> i32 {
    position.round() as i32
}
