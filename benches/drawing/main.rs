//! Draws what `peers` measured: a page that stands alone, and the picture of the README.
//!
//! | file | what it is for |
//! | --- | --- |
//! | [`results`] | `results.json` as values |
//! | [`plots`] | bars, lines and the picture, as SVG |
//! | [`page`] | the HTML page |
//!
//! It reads `target/bench/results.json` and writes `results.html` and `results.svg` beside it, or
//! where a file is named, beside that one: `cargo bench --bench drawing -- FILE.json`. Nothing is
//! measured here, so that a change of the drawing is seen at once.

mod page;
mod plots;
mod results;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use results::{FORMAT, Results};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo passes this to benchmarks, and not when it runs them as tests.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let is_json = |file: &&Path| {
        file.extension()
            .is_some_and(|extension| extension == "json")
    };
    if let Some(file) = arguments.iter().map(Path::new).find(is_json) {
        return draw(file);
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .context("the build directory")?
        .join("bench/results.json");
    if file.exists() {
        return draw(&file);
    }
    // As after `cargo bench -- scan`, which measures a part of one stage.
    let note = format!("{}: not there, nothing to draw", file.display());
    // Nobody is left to tell when standard error is gone.
    drop(writeln!(io::stderr(), "{note}"));
    Ok(())
}

fn draw(file: &Path) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let results: Results =
        serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    ensure!(
        results.format == FORMAT,
        "{} has the format {}, not {FORMAT}",
        file.display(),
        results.format
    );
    let outputs = [
        ("html", page::page(&results)?),
        ("svg", plots::picture(&results)?),
    ];
    for (extension, content) in outputs {
        let output = file.with_extension(extension);
        fs::write(&output, content).with_context(|| output.display().to_string())?;
    }
    Ok(())
}
