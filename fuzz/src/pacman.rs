//! pacman's list of a package's files: sections are independent, and only `%BACKUP%` counts.
//!
//! The input is a file; a NUL in it is where it is cut in two.

use std::collections::BTreeSet;

use vhashify_packages::Content;

use super::common::{assert_parts_add_up, configuration_files, split_at_nul};

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(input: &[u8]) {
    let files = configuration_files(Content::Pacman(input)).expect("small");
    assert_eq!(files, plainly(input));
    let (first, second) = split_at_nul(input);
    let whole = [first, b"\n\n", second].concat();
    assert_parts_add_up(
        [Content::Pacman(first), Content::Pacman(second)],
        Content::Pacman(&whole),
    );
}

/// The format, read in the plainest way.
fn plainly(input: &[u8]) -> BTreeSet<Vec<u8>> {
    let lines: Vec<_> = input.split(|byte| *byte == b'\n').collect();
    let mut files = BTreeSet::new();
    for section in lines.split(|line| line.is_empty()) {
        let entries = section.iter().skip_while(|line| **line != b"%BACKUP%");
        for entry in entries.filter(|line| **line != b"%BACKUP%") {
            let mut words: Vec<_> = entry.split(|byte| *byte == b'\t').collect();
            if words.len() > 1 {
                words.pop();
            }
            let name = words.join(&b'\t');
            let is_name = !name.is_empty() && name.len() < 4095 && !name.contains(&0);
            if is_name && !name.ends_with(b"/") {
                let slash: &[u8] = if name.starts_with(b"/") { b"" } else { b"/" };
                files.insert([slash, &name].concat());
            }
        }
    }
    files
}
