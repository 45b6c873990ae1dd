//! `personality`, as `personality(2)` takes it.

use std::path::Path;

use thiserror::Error;

use super::super::ConfigError;
use super::super::values::{arguments, invalid};

/// The type on the first line, then flags, one a line.
pub fn read(path: &Path) -> Result<Option<u32>, ConfigError> {
    let Some(lines) = arguments(path)? else {
        return Ok(None);
    };
    let words: Vec<&str> = lines
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty())
        .collect();
    parse(&words)
        .map(Some)
        .map_err(|error| invalid(path, &error.to_string()))
}

/// What is wrong with a personality.
#[derive(Debug, PartialEq, Eq, Error)]
enum PersonalityError {
    #[error("it is empty; write LINUX or LINUX32, then flags, one a line")]
    Empty,
    #[error("{word:?} is no personality here; write LINUX or LINUX32")]
    UnknownType { word: String },
    #[error("{word:?} is no flag; personality(2) lists them")]
    UnknownFlag { word: String },
}

fn parse(words: &[&str]) -> Result<u32, PersonalityError> {
    // From linux/personality.h; systems that no kernel imitates any more are left out.
    const TYPES: [(&str, u32); 4] = [
        ("LINUX", 0),
        ("LINUX_32BIT", 0x0080_0000),
        ("LINUX32", 0x0008),
        ("LINUX32_3GB", 0x0800_0008),
    ];
    const FLAGS: [(&str, u32); 10] = [
        ("UNAME26", 0x0002_0000),
        ("ADDR_NO_RANDOMIZE", 0x0004_0000),
        ("MMAP_PAGE_ZERO", 0x0010_0000),
        ("ADDR_COMPAT_LAYOUT", 0x0020_0000),
        ("READ_IMPLIES_EXEC", 0x0040_0000),
        ("ADDR_LIMIT_32BIT", 0x0080_0000),
        ("SHORT_INODE", 0x0100_0000),
        ("WHOLE_SECONDS", 0x0200_0000),
        ("STICKY_TIMEOUTS", 0x0400_0000),
        ("ADDR_LIMIT_3GB", 0x0800_0000),
    ];
    let find = |table: &[(&str, u32)], word: &str| {
        let upper = word.to_ascii_uppercase();
        let name = upper.strip_prefix("PER_").unwrap_or(&upper);
        let found = table.iter().find(|(known, _)| *known == name);
        found.map(|(_, bits)| *bits)
    };
    let Some((kind, flags)) = words.split_first() else {
        return Err(PersonalityError::Empty);
    };
    let mut bits = find(&TYPES, kind).ok_or_else(|| PersonalityError::UnknownType {
        word: (*kind).to_owned(),
    })?;
    for flag in flags {
        bits |= find(&FLAGS, flag).ok_or_else(|| PersonalityError::UnknownFlag {
            word: (*flag).to_owned(),
        })?;
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_personality_is_a_type_and_flags() {
        for (words, bits) in [
            (&["LINUX"][..], Ok(0)),
            (&["PER_LINUX32"], Ok(8)),
            (&["linux32", "ADDR_NO_RANDOMIZE"], Ok(0x4_0008)),
            (&["LINUX", "UNAME26", "SHORT_INODE"], Ok(0x102_0000)),
        ] {
            assert_eq!(parse(words), bits, "{words:?}");
        }
        for words in [&[][..], &["SOLARIS"], &["LINUX", "FLY"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
