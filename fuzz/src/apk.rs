//! apk's list of installed packages under a guest's own protected paths: packages are independent,
//! and which files are protected agrees with the plainest reading of the rules.
//!
//! The input is a list of protected paths, a NUL, and the packages; a second NUL cuts these in two.

use std::collections::BTreeSet;

use vhashify_packages::Content;
use vhashify_packages::pattern::Pattern;

use super::common::{assert_parts_add_up, configuration_files, split_at_nul};

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(input: &[u8]) {
    let (protected_paths, installed) = split_at_nul(input);
    let content = |installed| Content::Apk {
        installed,
        protected_paths,
    };
    let files = configuration_files(content(installed));
    let Some(files) = files else {
        // The list is too long: nothing else of this size is refused.
        let lines = protected_paths.split(|byte| *byte == b'\n');
        return assert!(lines.count() > 900, "refused");
    };
    assert_eq!(files, plainly(protected_paths, installed));
    let (first, second) = split_at_nul(installed);
    let whole = [first, b"\n\n", second].concat();
    assert_parts_add_up([content(first), content(second)], content(&whole));
}

fn names(path: &[u8]) -> Vec<&[u8]> {
    let names = path.split(|byte| *byte == b'/');
    names.filter(|name| !name.is_empty()).collect()
}

/// The rules, applied to whole paths one by one.
fn plainly(protected_paths: &[u8], installed: &[u8]) -> BTreeSet<Vec<u8>> {
    let list = [b"+etc\n@etc/init.d\n!etc/apk\n", protected_paths].concat();
    let rules: Vec<(Vec<Pattern>, bool)> = list
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.starts_with(b"#"))
        .map(|line| match line {
            [b'-' | b'@', path @ ..] => (path, false),
            [b'+' | b'!', path @ ..] | path => (path, true),
        })
        .map(|(path, protects)| {
            let compile = |name| Pattern::compile(name).unwrap_or_else(|_| Pattern::exactly(name));
            (names(path).into_iter().map(compile).collect(), protects)
        })
        .filter(|(names, _): &(Vec<_>, _)| !names.is_empty())
        .collect();
    // The longest rule that matches a leading part of the path, and of these the last.
    let is_protected = |path: &[&[u8]]| {
        let matching = rules.iter().filter(|(patterns, _)| {
            patterns.len() <= path.len()
                && patterns
                    .iter()
                    .zip(path)
                    .all(|(pattern, name)| pattern.matches(name))
        });
        matching
            .max_by_key(|(patterns, _)| patterns.len())
            .is_some_and(|(_, protects)| *protects)
    };

    let mut files = BTreeSet::new();
    let mut directory: &[u8] = b"";
    for line in installed.split(|byte| *byte == b'\n') {
        match line {
            [] => directory = b"",
            [b'F', b':', path @ ..] => directory = path,
            [b'R', b':', name @ ..] => {
                // The file's name is one name, whatever it holds.
                let path = [names(directory), vec![name]].concat();
                let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
                let mut file = [directory, slash, name].concat();
                let is_path = !file.is_empty() && file.len() < 4095 && !file.contains(&0);
                if is_protected(&path) && is_path && !file.ends_with(b"/") {
                    if !file.starts_with(b"/") {
                        file.insert(0, b'/');
                    }
                    files.insert(file);
                }
            }
            _ => {}
        }
    }
    files
}
