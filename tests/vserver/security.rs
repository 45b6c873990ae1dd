//! The page about security names a test for each row, and there is such a test.

use std::fs;
use std::path::Path;

use vhashify_testkit::built::repository;

/// The names in the last column: `file::of::modules::test`.
fn tests_of(row: &str) -> Vec<String> {
    let last = row.trim_end_matches(['|', ' ']).rsplit('|').next();
    let parts = last.unwrap_or_default().split('`');
    parts.skip(1).step_by(2).map(str::to_owned).collect()
}

fn exists(tests: &Path, name: &str) -> bool {
    let (modules, function) = name.rsplit_once("::").unwrap();
    let file = tests.join(modules.replace("::", "/")).with_extension("rs");
    let source = fs::read_to_string(file).unwrap_or_default();
    source.contains(&format!("]\nfn {function}() {{"))
}

#[test]
fn each_row_of_the_page_names_a_test_that_there_is() {
    let page = fs::read_to_string(repository().join("docs/security.md")).unwrap();
    let table = page.split("\n## ").nth(1).unwrap();
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(2)
        .collect();
    assert!(rows.len() > 20, "{rows:?}");
    let tests = repository().join("tests/vserver");
    for row in rows {
        let named = tests_of(row);
        assert!(!named.is_empty(), "no test: {row}");
        for name in named {
            assert!(exists(&tests, &name), "there is no test {name}: {row}");
        }
    }
}
