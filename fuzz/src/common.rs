//! What the targets share: how an input is divided, and what is true of every
//! answer of a parser of package databases.

use std::collections::BTreeSet;
use std::path::Path;

use vhashify_packages::Content;

/// The longest path that the kernel takes, without the NUL at its end.
const LONGEST_PATH: usize = 4095;

/// What stands before the first NUL of an input, and what stands after it.
#[must_use]
pub fn split_at_nul(input: &[u8]) -> (&[u8], &[u8]) {
    match input.iter().position(|byte| *byte == 0) {
        Some(nul) => (&input[..nul], &input[nul + 1..]),
        None => (input, &[]),
    }
}

/// The configuration files that a package database names; `None` if it is refused.
///
/// # Panics
/// A path is none that a file in a guest can have, or an error does not name the database.
#[must_use]
pub fn configuration_files(content: Content<'_>) -> Option<BTreeSet<Vec<u8>>> {
    match content.configuration_files(Path::new("/guest/database")) {
        Ok(files) => {
            for file in &files {
                assert!(file.starts_with(b"/"), "{}", file.escape_ascii());
                assert!(!file.ends_with(b"/"), "{}", file.escape_ascii());
                assert!(!file.contains(&0), "{}", file.escape_ascii());
                assert!(file.len() <= LONGEST_PATH, "{}", file.escape_ascii());
            }
            Some(files)
        }
        Err(error) => {
            assert!(error.to_string().contains("/guest/database"), "{error}");
            None
        }
    }
}

/// Asserts that the packages of a database are independent of each other: `whole`, the database
/// cut in two between two packages, names what its two parts name.
///
/// # Panics
/// It does not.
pub fn assert_parts_add_up(parts: [Content<'_>; 2], whole: Content<'_>) {
    let [first, second] = parts.map(configuration_files);
    // Nothing of a size that is fuzzed asks for too much.
    let (mut first, second) = (first.expect("small"), second.expect("small"));
    first.extend(second);
    assert_eq!(configuration_files(whole), Some(first));
}
