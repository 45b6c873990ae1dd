//! Telling in a few instructions that a path cannot match.
//!
//! Most paths match no line at all, so what counts is how fast each line says no. A [`Filter`]
//! keeps up to eight bytes from the end of a pattern's plain prefix and of its plain suffix, as
//! numbers under a mask; [`Ends`] is the same of a path, made once for all lines.

use vhashify_packages::pattern::Pattern;

/// The first and the last eight bytes of a path, the missing ones 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    first: u64,
    last: u64,
}

impl Ends {
    pub(super) fn of(path: &[u8]) -> Self {
        let first = path
            .first_chunk()
            .map_or_else(|| padded(path), |word| u64::from_le_bytes(*word));
        let last = path
            .last_chunk()
            .map_or_else(|| padded_left(path), |word| u64::from_be_bytes(*word));
        Self { first, last }
    }
}

/// Some bytes at the end of a pattern's prefix, and some at the end of its suffix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filter {
    prefix: Masked,
    suffix: Masked,
    /// Where the eight bytes of the prefix begin; 0 for a prefix of eight bytes or fewer.
    offset: usize,
}

#[derive(Debug, Clone, Copy)]
struct Masked {
    mask: u64,
    value: u64,
}

impl Masked {
    fn accepts(self, word: u64) -> bool {
        word & self.mask == self.value
    }
}

impl Filter {
    pub(super) fn of(pattern: &Pattern) -> Self {
        let (prefix, suffix) = (pattern.prefix(), pattern.suffix());
        let offset = prefix.len().saturating_sub(8);
        let prefix = &prefix[offset..];
        let suffix = &suffix[suffix.len().saturating_sub(8)..];
        let all = |bytes: &[u8]| vec![u8::MAX; bytes.len()];
        Self {
            prefix: Masked {
                mask: padded(&all(prefix)),
                value: padded(prefix),
            },
            suffix: Masked {
                mask: padded_left(&all(suffix)),
                value: padded_left(suffix),
            },
            offset,
        }
    }

    /// Whether `path` can match; `false` is certain.
    #[inline]
    pub(super) fn may_match(&self, path: &[u8], ends: Ends) -> bool {
        if !self.suffix.accepts(ends.last) {
            return false;
        }
        let word = if self.offset == 0 {
            Some(ends.first)
        } else {
            // Here the prefix has more than eight bytes, and a shorter path cannot begin with it.
            path.get(self.offset..)
                .and_then(<[u8]>::first_chunk)
                .map(|word| u64::from_le_bytes(*word))
        };
        word.is_some_and(|word| self.prefix.accepts(word))
    }
}

/// Up to eight bytes, the first one lowest.
fn padded(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Up to eight bytes, the last one lowest.
fn padded_left(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}
