//! The page: whatever guests call their files, it is well-formed, fetches nothing, and is readable
//! in light and dark and on a phone.

use std::fs;
use std::path::PathBuf;

use vhashify_testkit::browser::{Browser, Screen};
use vhashify_testkit::built;
use vhashify_testkit::filesystem::{Filesystem, Kind};
use vhashify_testkit::html;
use vhashify_testkit::program::{Host, output};
use vhashify_testkit::skip;

use crate::command_line::tree::write;

/// What would be markup if it were not escaped. A name holds no slash.
const MARKUP: &str = r#"<img src=x onerror=document.title='ha'>"&amp;'<b>"#;

/// Guests and files with hostile names, and longer ones than any screen is wide.
fn hostile(filesystem: &Filesystem) -> Host {
    let mut host = Host::new(filesystem.path(), 1);
    host.guests.push(filesystem.path().join(MARKUP));
    host.guests.push(filesystem.path().join("g".repeat(120)));
    for (number, guest) in host.guests.iter().enumerate() {
        write(guest, format!("usr/{MARKUP}"), "x".repeat(50_000));
        write(guest, "l".repeat(200), "y".repeat(40_000));
        write(guest, "usr/lib/libc.so.6", "z".repeat(1_000_000));
        write(guest, "own", format!("own {number}"));
        write(guest, "empty", "");
    }
    host.run(&[]);
    host.run(&[]);
    // So that there is something that is not shared.
    for guest in &host.guests {
        write(guest, "new", "new");
    }
    host
}

/// The page of a host, and where it is.
fn page_of(host: &Host) -> (String, PathBuf) {
    let file = host.place.join("report.html");
    let mut command = host.command(["report", "--format", "html"]);
    let done = output(command.arg("--output").arg(&file));
    assert!(done.status.success(), "{done:?}");
    assert_eq!((done.stdout.len(), done.stderr.len()), (0, 0), "{done:?}");
    (fs::read_to_string(&file).unwrap(), file)
}

#[test]
fn names_are_text_and_never_markup() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let (page, _) = page_of(&hostile(&filesystem));
    let elements = html::check(&page);
    for never in ["img", "b", "script", "link", "iframe"] {
        assert!(!elements.iter().any(|element| element == never), "{never}");
    }
    let escaped = "&lt;img src=x onerror=document.title='ha'&gt;&quot;&amp;amp;'&lt;b&gt;";
    assert!(page.contains(escaped), "{page}");
    assert!(page.contains(&format!("/usr/{escaped}")), "{page}");
}

#[test]
fn it_stands_alone() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let (page, _) = page_of(&hostile(&filesystem));
    let elements = html::check(&page);
    assert!(
        elements.iter().any(|element| element == "svg"),
        "a plot of the runs"
    );
    for never in ["http:", "https:", "url(", "@import", "href=", " src=\""] {
        assert!(!page.contains(never), "{never}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn it_goes_to_standard_output_and_with_a_report_only() {
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = hostile(&filesystem);
    let done = output(&mut host.command(["report", "--format", "html"]));
    html::check(std::str::from_utf8(&done.stdout).unwrap());
    for command in [&["gc"][..], &["verify"], &["--manually", "/nowhere"]] {
        let mut command = host.command(command);
        let done = output(command.args(["--format", "html"]));
        assert_eq!(done.status.code(), Some(2), "{done:?}");
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(said.contains("report"), "{said}");
    }
    let done = output(&mut host.command(["report", "-o", "/proc/nowhere/page"]));
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("/proc/nowhere/page"), "{said}");
}

/// The contrast of an element's text and the page's ground, as WCAG 2 defines it.
const CONTRAST: &str = r"(selector => {
    const luminance = colour => {
        const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const element = document.querySelector(selector);
    let ground = element;
    while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
    const [one, other] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor]
        .map(luminance);
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
})";

/// The page is as wide as the screen, and nothing of it reaches out.
fn assert_fits(browser: &mut Browser, name: &str, width: u32) {
    let reach = browser.ask("document.documentElement.scrollWidth").as_u64();
    assert_eq!(
        reach,
        Some(u64::from(width)),
        "{name}: wider than the screen"
    );
    let cut = browser.ask(
        "[...document.querySelectorAll('td, th, p, li, h1, h2, h3, span')].filter(e => \
         { const r = e.getBoundingClientRect(); return e.closest('thead') === null && \
         r.width > 0 && (r.right > innerWidth + 0.5 || r.left < -0.5); }).length",
    );
    assert_eq!(cut, 0, "{name}: elements reach out of the screen");
}

/// Every part of the page and every hostile name is there to be read, as text.
fn assert_says_all_and_runs_nothing(browser: &mut Browser, name: &str) {
    let text = browser.ask("document.body.innerText");
    let text = text.as_str().unwrap();
    for part in [
        "Saved on disk",
        "libc.so.6",
        "The last runs",
        "Not yet",
        MARKUP,
    ] {
        assert!(text.contains(part), "{name}: {part:?} is not in {text}");
    }
    // Nothing of a name was taken for markup, and nothing ran.
    assert_eq!(
        browser.ask("document.querySelectorAll('img, b, script').length"),
        0
    );
    assert!(
        browser
            .ask("document.title")
            .as_str()
            .unwrap()
            .starts_with("vhashify on ")
    );
}

/// Letters are large enough, and stand out from their ground.
fn assert_is_legible(browser: &mut Browser, name: &str) {
    for (selector, least) in [("body", 7.0), (".figure", 7.0), (".soft", 4.5), ("td", 7.0)] {
        let contrast = browser
            .ask(&format!("{CONTRAST}('{selector}')"))
            .as_f64()
            .unwrap();
        assert!(
            contrast >= least,
            "{name}: {selector} has a contrast of {contrast}"
        );
    }
    let size = browser.ask(
        "Math.min(...[...document.querySelectorAll('td, p, span, li')].filter(e => \
         e.innerText).map(e => parseFloat(getComputedStyle(e).fontSize)))",
    );
    assert!(
        size.as_f64().unwrap() >= 11.0,
        "{name}: letters of {size} px"
    );
}

#[test]
fn it_is_readable_in_light_and_dark_and_on_a_phone() {
    let Some(mut browser) = Browser::start() else {
        return skip("no Chromium; `make test` installs it");
    };
    let filesystem = Filesystem::new(Kind::Ext4);
    let host = hostile(&filesystem);
    let (_, page) = page_of(&host);
    let mut grounds = Vec::new();
    let mut pictures = Vec::new();
    for (name, width, is_dark) in [
        ("light", 1200, false),
        ("dark", 1200, true),
        ("tablet", 768, false),
        ("phone", 360, false),
        ("phone-dark", 360, true),
        ("small-phone", 320, false),
    ] {
        let screen = Screen {
            width,
            height: 800,
            is_dark,
        };
        browser.open(&page, screen);
        let picture = built::scratch().join(format!("report-{name}.png"));
        pictures.push(browser.picture(&picture));
        assert_fits(&mut browser, name, width);
        assert_says_all_and_runs_nothing(&mut browser, name);
        assert_is_legible(&mut browser, name);
        grounds.push(browser.ask("getComputedStyle(document.body).backgroundColor"));
    }
    assert_eq!(grounds[0], grounds[3], "light is light on any screen");
    assert_eq!(grounds[1], grounds[4], "dark is dark on any screen");
    assert_ne!(grounds[0], grounds[1], "dark is another colour");
    assert_ne!(pictures[0], pictures[1], "and looks so");
}
