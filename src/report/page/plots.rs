//! Plots the last runs as columns: time, files, bytes.

use maud::{Markup, html};

use super::date;
use crate::outcome::numbers::{bytes, grouped};
use crate::report::PastRun;

/// Three plots with a column for each run; nothing if there are fewer than two runs to compare.
pub fn runs(runs: &[PastRun]) -> Markup {
    if runs.len() < 2 {
        return html! {};
    }
    let seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
    let files: Vec<u64> = runs.iter().map(|run| run.counts.files_unified).collect();
    let saved: Vec<u64> = runs.iter().map(|run| run.counts.bytes_saved).collect();
    html! {
        div.plots {
            (columns("Time", runs, &seconds, |seconds| format!("{seconds:.1} s")))
            (columns("Files unified", runs, &as_floats(&files), |files| grouped(whole(files))))
            (columns("Bytes saved", runs, &as_floats(&saved), |saved| bytes(whole(saved))))
        }
    }
}

/// A plot of one measure. Only the columns are drawn; all text stands beside them.
fn columns(title: &str, runs: &[PastRun], values: &[f64], shown: impl Fn(f64) -> String) -> Markup {
    /// The height in units of the drawing, which the browser stretches.
    const HEIGHT: f64 = 100.0;
    let top = values.iter().copied().fold(0.0, f64::max);
    let height = |value: f64| {
        if top > 0.0 { HEIGHT * value / top } else { 0.0 }
    };
    let (first, last) = (runs.first(), runs.last());
    html! {
        figure {
            figcaption { (title) }
            div.plot {
                div.scale { span { (shown(top)) } span { (shown(0.0)) } }
                svg viewBox=(format!("0 0 {} {HEIGHT}", values.len())) preserveAspectRatio="none"
                    role="img" aria-label=(format!("{title} of the last {} runs", values.len())) {
                    line x1="0" x2=(values.len()) y1="0" y2="0" {}
                    line x1="0" x2=(values.len()) y1=(HEIGHT / 2.0) y2=(HEIGHT / 2.0) {}
                    @for (at, (run, &value)) in runs.iter().zip(values).enumerate() {
                        rect.last[at + 1 == values.len()]
                            x=(format!("{at}.12")) width="0.76"
                            y=(format!("{:.2}", HEIGHT - height(value)))
                            height=(format!("{:.2}", height(value))) {
                            title { (moment(run)) ": " (shown(value)) }
                        }
                    }
                }
                div.dates { span { (first.map(moment).unwrap_or_default()) } span { (last.map(moment).unwrap_or_default()) } }
            }
        }
    }
}

/// The time of a run, or its number if the time is unknown.
pub fn moment(run: &PastRun) -> String {
    if run.began == 0 {
        format!("run {}", run.number)
    } else {
        date(run.began)
    }
}

#[allow(clippy::cast_precision_loss)] // A column needs fewer digits.
fn as_floats(values: &[u64]) -> Vec<f64> {
    values.iter().map(|&value| value as f64).collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as_floats` made it of a `u64`.
fn whole(value: f64) -> u64 {
    value as u64
}
