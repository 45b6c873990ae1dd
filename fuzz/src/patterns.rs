//! One pattern against one text: the C library's `fnmatch(3)` is the judge.
//!
//! The input is a pattern, a NUL, and a text.

use std::ffi::{CStr, CString};

use vhashify_packages::pattern::{BadPattern, Pattern};

use super::common::split_at_nul;

/// Tries one input.
///
/// # Panics
/// The parser does not do what is said above.
pub fn check(input: &[u8]) {
    let (source, text) = split_at_nul(input);
    let pattern = match Pattern::compile(source) {
        Ok(pattern) => pattern,
        Err(BadPattern::Empty) => return assert!(source.is_empty()),
        // `source` ends where the first NUL stands.
        Err(BadPattern::Nul) => unreachable!(),
        Err(_) => return assert!(source.iter().any(|byte| b"[\\".contains(byte))),
    };
    let matches = pattern.matches(text);
    if let Ok(text) = CString::new(text)
        && let Ok(source) = CString::new(source)
    {
        assert_eq!(matches, fnmatch(&source, &text), "{source:?} on {text:?}");
    }
    if matches {
        assert!(text.starts_with(pattern.prefix()));
        assert!(text.ends_with(pattern.suffix()));
    }
    if let Some(only) = pattern.literal() {
        assert_eq!(matches, text == only);
        assert!(pattern.matches(only));
    }
    assert!(pattern.most_steps(text.len()) <= (text.len() as u64 + 1) * (source.len() as u64 + 1));

    let exactly = Pattern::exactly(text);
    assert!(exactly.matches(text));
    assert_eq!(exactly.matches(source), source == text);
    assert!(Pattern::anything().matches(text));
}

fn fnmatch(pattern: &CStr, text: &CStr) -> bool {
    // SAFETY: both pointers are to NUL-terminated strings that outlive the call, and nothing in
    // this program calls setlocale, so the C locale stays in force.
    unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
}
