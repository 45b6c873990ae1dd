//! rpm's own database: a file that is cut short is refused, or names no file that the whole does not.

use vhashify_packages::Content;

use super::common::configuration_files;

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(input: &[u8]) {
    let Some(files) = configuration_files(Content::RpmNdb(input)) else {
        return;
    };
    for length in [input.len() / 2, input.len().saturating_sub(1)] {
        let fewer = configuration_files(Content::RpmNdb(&input[..length]));
        assert!(fewer.is_none_or(|fewer| fewer.is_subset(&files)));
    }
}
