//! The page and the picture that `make bench` makes of what it measured: escaped, well-formed, alone,
//! and readable on any screen. The figures here are made up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../benches/drawing/page.rs"]
mod page;
#[path = "../benches/drawing/plots.rs"]
mod plots;
#[path = "../benches/drawing/results.rs"]
mod results;

use std::fs;
use std::path::PathBuf;

use results::{FORMAT, Results};
use serde_json::{Value, json};
use vhashify_testkit::browser::{Browser, Screen};
use vhashify_testkit::built;
use vhashify_testkit::{html, skip};

fn sample() -> Value {
    serde_json::from_str(include_str!("../fixtures/bench/results.json")).unwrap()
}

fn read(value: Value) -> Results {
    let results: Results = serde_json::from_value(value).unwrap();
    assert_eq!(results.format, FORMAT);
    results
}

/// A file for the browser, and for whoever wants to see what the test saw.
fn place(name: &str) -> PathBuf {
    built::scratch().join(format!("bench-{name}"))
}

#[test]
fn whatever_tools_and_notes_are_called_the_page_is_well_formed_and_stands_alone() {
    let page = page::page(&read(sample())).unwrap();
    let elements = html::check(&page);
    for never in ["b", "tool", "script", "img", "link"] {
        assert!(!elements.iter().any(|element| element == never), "{never}");
    }
    assert!(page.contains("a &lt;tool&gt; &amp; &quot;more&quot;"));
    for never in ["url(", "@import", "href=", " src=\"", "<script"] {
        assert!(!page.contains(never), "{never}");
    }
    let addresses = page.matches("http").count();
    let names = page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count();
    // The policy's own name is the other one.
    assert_eq!(addresses, names + 1, "nothing but the names of formats");
    assert_eq!(page.matches(">met<").count(), 4);
    assert_eq!(page.matches(">missed<").count(), 1);
    assert!(page.contains("4 of 6 are met"));
    assert!(page.contains(">2.00–2.35 s<") && page.contains(">8.55–10.1 s<"));
}

#[test]
fn what_was_not_measured_is_said_to_be_so() {
    let mut nothing = sample();
    nothing["rows"] = json!([]);
    nothing["growth"] = json!([]);
    html::check(&page::page(&read(nothing.clone())).unwrap());
    plots::picture(&read(nothing)).unwrap();
    let mut empty = sample();
    for row in empty["rows"].as_array_mut().unwrap() {
        for figure in row["figures"].as_array_mut().unwrap() {
            for member in ["seconds", "least", "most", "peak_bytes"] {
                figure[member] = Value::Null;
            }
        }
    }
    let page = page::page(&read(empty)).unwrap();
    html::check(&page);
    assert!(page.contains("not measured"));
}

#[test]
fn the_page_is_readable_in_light_and_dark_and_on_a_phone() {
    let Some(mut browser) = Browser::start() else {
        return skip("no Chromium; `make test` installs it");
    };
    let file = place("page.html");
    fs::write(&file, page::page(&read(sample())).unwrap()).unwrap();
    let mut seen = Vec::new();
    for (name, width, is_dark) in [
        ("light", 1200, false),
        ("dark", 1200, true),
        ("tablet", 768, false),
        ("phone", 360, true),
        ("small-phone", 320, false),
    ] {
        let screen = Screen {
            width,
            height: 800,
            is_dark,
        };
        browser.open(&file, screen);
        seen.push(browser.picture(&place(&format!("{name}.png"))));
        let reach = browser.ask("document.documentElement.scrollWidth");
        assert_eq!(reach, width, "{name}: wider than the screen");
        let text = browser.ask("document.body.innerText");
        let text = text.as_str().unwrap();
        for part in [
            "First run",
            "fastest peer",
            "missed",
            "How cost grows",
            "<b>Nothing</b>",
        ] {
            assert!(text.contains(part), "{name}: {part:?} is not in {text}");
        }
        // Letters of a drawing shrink and grow with it.
        let letters = browser.ask(
            "Math.min(...[...document.querySelectorAll('svg text')].map(e => \
             parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a))",
        );
        assert!(
            letters.as_f64().unwrap() >= 9.5,
            "{name}: letters of {letters} px"
        );
        let colours = browser.ask(
            "[...new Set([...document.querySelectorAll('svg text, svg rect')].map(e => \
             getComputedStyle(e).fill))].sort().join()",
        );
        seen.push(colours.as_str().unwrap().as_bytes().to_vec());
    }
    assert_ne!(seen[1], seen[3], "drawings have other colours in the dark");
    assert_ne!(seen[0], seen[2]);
}

#[test]
fn the_picture_stands_alone_and_follows_the_scheme() {
    let picture = plots::picture(&read(sample())).unwrap();
    assert!(picture.len() < 20_000, "{} bytes", picture.len());
    assert!(picture.contains("&lt;tool&gt;"));
    let Some(mut browser) = Browser::start() else {
        return skip("no Chromium; `make test` installs it");
    };
    let file = place("picture.svg");
    fs::write(&file, picture).unwrap();
    let mut seen = Vec::new();
    for (name, is_dark) in [("picture-light", false), ("picture-dark", true)] {
        let screen = Screen {
            width: 840,
            height: 400,
            is_dark,
        };
        browser.open(&file, screen);
        seen.push(browser.picture(&place(&format!("{name}.png"))));
        // A browser shows an error in place of a drawing that is not well-formed.
        let texts = browser.ask("document.querySelectorAll('svg text').length");
        assert!(texts.as_u64().unwrap() > 10, "{texts}");
    }
    assert_ne!(seen[0], seen[1]);
}
