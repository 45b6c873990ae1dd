//! A list of patterns: the hash table, the buckets and the filters decide as trying line by line.
//!
//! The input is a list, a NUL, and lines: paths to decide on.

use std::path::Path;

use vhashify::exclude::{ExcludeError, Rules, Verdict};
use vhashify_packages::pattern::Pattern;

use super::common::split_at_nul;

/// One line as the head of `src/exclude/rules.rs` describes it.
struct Line {
    verdict: Verdict,
    pattern: Pattern,
    directories_only: bool,
}

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(input: &[u8]) {
    let (list, paths) = split_at_nul(input);
    let parsed = Rules::parse(Path::new("list"), list);
    let lines: Result<Vec<_>, usize> = list
        .split(|byte| *byte == b'\n')
        .zip(1..)
        .filter_map(|(line, number)| read_line(line).map(|read| read.map_err(|()| number)))
        .collect();
    let (rules, lines) = match (parsed, lines) {
        (Ok(rules), Ok(lines)) => (rules, lines),
        (Err(ExcludeError::BadLine { line, .. }), Err(number)) => return assert_eq!(line, number),
        (parsed, lines) => panic!("{parsed:?}, but line by line {:?}", lines.err()),
    };

    let paths: Vec<_> = paths
        .split(|byte| *byte == b'\n')
        .map(|path| [b"/", path].concat())
        .collect();
    // Every third path is a configuration file, which goes before all lines.
    let files: Vec<_> = paths.iter().step_by(3).cloned().collect();
    let with_files = rules.clone().with_files_first(files.clone());
    for path in &paths {
        for is_directory in [false, true] {
            let expected = lines
                .iter()
                .find(|line| (is_directory || !line.directories_only) && line.pattern.matches(path))
                .map_or(Verdict::Include, |line| line.verdict);
            assert_eq!(rules.decide(path, is_directory), expected);
            let expected = if files.contains(path) {
                Verdict::Exclude
            } else {
                expected
            };
            assert_eq!(with_files.decide(path, is_directory), expected);
        }
    }
}

/// `None` for a line that says nothing.
fn read_line(line: &[u8]) -> Option<Result<Line, ()>> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let skip_blanks = |text: &mut Vec<u8>| {
        while text.first().is_some_and(is_blank) {
            text.remove(0);
        }
    };
    let mut text = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
    skip_blanks(&mut text);
    while text.last().is_some_and(is_blank) {
        let end = text.len() - 1;
        let escapes = text[..end].iter().rev().take_while(|byte| **byte == b'\\');
        if escapes.count() % 2 == 1 {
            break;
        }
        text.truncate(end);
    }
    let verdict = match text.first()? {
        b'#' => return None,
        b'+' => Some(Verdict::Include),
        b'~' => Some(Verdict::SkipEntry),
        b'-' => Some(Verdict::Exclude),
        _ => None,
    };
    if verdict.is_some() {
        text.remove(0);
        skip_blanks(&mut text);
    }
    if text.first().is_some_and(|first| !b"/*?[".contains(first)) {
        return Some(Err(()));
    }
    let directories_only = text.len() > 1 && text.ends_with(b"/");
    if directories_only {
        text.pop();
    }
    Some(Pattern::compile(&text).map_err(drop).map(|pattern| Line {
        verdict: verdict.unwrap_or(Verdict::Exclude),
        pattern,
        directories_only,
    }))
}
