//! dpkg's status file: stanzas are independent, and paths stand in the file as they are found.
//!
//! The input is a status file; a NUL in it is where it is cut in two.

use vhashify_packages::Content;

use super::common::{assert_parts_add_up, configuration_files, split_at_nul};

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(input: &[u8]) {
    let files = configuration_files(Content::Dpkg(input)).expect("small");
    for file in files {
        // A field's continuation begins with a blank, and a path is not the last word of its line.
        let line = [b" ", &*file, b" "].concat();
        let tabbed = [b"\t", &*file, b" "].concat();
        let stands = |wanted: &[u8]| input.windows(wanted.len()).any(|part| part == wanted);
        assert!(stands(&line) || stands(&tabbed), "{}", file.escape_ascii());
    }
    let (first, second) = split_at_nul(input);
    let whole = [first, b"\n\n", second].concat();
    assert_parts_add_up(
        [Content::Dpkg(first), Content::Dpkg(second)],
        Content::Dpkg(&whole),
    );
}
