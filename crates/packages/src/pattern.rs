//! A path pattern. It matches as `fnmatch(3)` does without flags, but is compiled once and matched many
//! times.
//!
//! `*`, `?` and `[...]` match `/` and a leading dot, too. Patterns and paths are bytes: `?` matches one
//! byte, as in the C locale, so a name need not be UTF-8 and may hold newlines.
//!
//! ```text
//! /var/cache/*/x[0-9]?.bin
//! |--prefix-| |-middle-| |suffix|     plain prefix and suffix reject most paths;
//!             */x[0-9]?   .bin        matching steps only through what passes both
//! ```
//!
//! Matching backtracks to the last `*` only. That is enough, because `*` matches anything, and bounds
//! the steps by length of path times length of pattern, whatever the pattern.

/// Why [`Pattern::compile`] refuses a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// The pattern has no bytes.
    #[error("the pattern is empty")]
    Empty,
    /// No path holds a NUL byte, so the pattern would never match.
    #[error("the pattern holds a NUL byte")]
    Nul,
    /// Paths begin with `/`, so a pattern that begins with another plain byte would never match.
    #[error("the pattern begins neither with '/' nor with one of '*', '?' and '['")]
    NotRooted,
    /// The pattern ends in a backslash that escapes nothing.
    #[error("the pattern ends in a lone backslash")]
    LoneBackslash,
    /// No `]` closes a `[`; `\[` means the plain byte.
    #[error("a '[' is not closed by ']' (write '\\[' for a plain bracket)")]
    UnclosedBracket,
    /// A range such as `[z-a]`.
    #[error("a range in '[...]' ends before it begins")]
    BackwardRange,
    /// A class that POSIX does not name, such as `[[:letter:]]`.
    #[error("an unknown class name in '[[:...:]]'")]
    UnknownClass,
    /// `[[.xx.]]` or `[[=xx=]]` with more or less than one byte.
    #[error("'[[.x.]]' and '[[=x=]]' take exactly one byte here")]
    Collation,
}

/// The bytes that a `[...]` accepts, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ByteSet([u64; 4]);

impl ByteSet {
    const EMPTY: Self = Self([0; 4]);

    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }

    fn inverted(self) -> Self {
        Self(self.0.map(|word| !word))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    AnyByte,
    // Boxed, because its 32 bytes would make each plain byte of a pattern as large.
    Set(Box<ByteSet>),
    Star,
}

impl Token {
    fn accepts(&self, byte: u8) -> bool {
        match self {
            Self::Byte(own) => *own == byte,
            Self::AnyByte => true,
            Self::Set(set) => set.contains(byte),
            Self::Star => false,
        }
    }
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    prefix: Box<[u8]>,
    middle: Box<[Token]>,
    suffix: Box<[u8]>,
}

impl Pattern {
    /// Compiles `source`, which need not begin with `/`.
    ///
    /// # Errors
    /// Refuses a pattern that `fnmatch` takes literally or that matches nothing: an unclosed bracket, a
    /// lone backslash, an unknown class …
    pub fn compile(source: &[u8]) -> Result<Self, BadPattern> {
        if source.is_empty() {
            return Err(BadPattern::Empty);
        }
        if source.contains(&0) {
            return Err(BadPattern::Nul);
        }
        let tokens = tokens(source)?;
        let plain = |token: &&Token| matches!(token, Token::Byte(_));
        let prefix = tokens.iter().take_while(plain).count();
        let suffix = tokens[prefix..].iter().rev().take_while(plain).count();
        let (head, tail) = tokens.split_at(prefix);
        let (middle, tail) = tail.split_at(tail.len() - suffix);
        Ok(Self {
            prefix: bytes_of(head),
            middle: middle.into(),
            suffix: bytes_of(tail),
        })
    }

    /// A pattern that matches only `text`, wildcards in it taken literally.
    #[must_use]
    pub fn exactly(text: &[u8]) -> Self {
        Self {
            prefix: text.into(),
            middle: Box::default(),
            suffix: Box::default(),
        }
    }

    /// The pattern `*`.
    #[must_use]
    pub fn anything() -> Self {
        Self {
            prefix: Box::default(),
            middle: [Token::Star].into(),
            suffix: Box::default(),
        }
    }

    /// The only text that matches, if the pattern holds no wildcard.
    #[must_use]
    pub fn literal(&self) -> Option<&[u8]> {
        self.middle.is_empty().then_some(&*self.prefix)
    }

    /// The plain bytes that every matching text begins with.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The plain bytes that every matching text ends with; none if the pattern holds no wildcard.
    #[must_use]
    pub fn suffix(&self) -> &[u8] {
        &self.suffix
    }

    /// The most steps that matching a text of `length` bytes takes.
    #[must_use]
    pub fn most_steps(&self, length: usize) -> u64 {
        let steps = (length + 1).saturating_mul(self.middle.len() + 1);
        u64::try_from(steps).unwrap_or(u64::MAX)
    }

    /// Whether the pattern matches all of `text`.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        let Some(rest) = text.strip_prefix(&*self.prefix) else {
            return false;
        };
        let Some(rest) = rest.strip_suffix(&*self.suffix) else {
            return false;
        };
        step_through(&self.middle, rest)
    }
}

/// Matches the part of a pattern that is not plain.
fn step_through(tokens: &[Token], text: &[u8]) -> bool {
    if let [Token::Star] = tokens {
        return true;
    }
    let (mut next, mut at) = (0, 0);
    // The token after the last star, and the first byte that the star has not taken: where to go on when
    // the text does not match what follows the star.
    let mut resume: Option<(usize, usize)> = None;
    loop {
        match (tokens.get(next), text.get(at)) {
            (Some(Token::Star), _) => {
                next += 1;
                if next == tokens.len() {
                    return true;
                }
                resume = Some((next, at));
                continue;
            }
            (Some(wanted), Some(&byte)) if wanted.accepts(byte) => {
                next += 1;
                at += 1;
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        // Let the last star take one byte more. With no byte left, nothing can match.
        match resume {
            Some((after_star, taken)) if taken < text.len() => {
                next = after_star;
                at = taken + 1;
                resume = Some((after_star, at));
            }
            _ => return false,
        }
    }
}

fn bytes_of(tokens: &[Token]) -> Box<[u8]> {
    tokens
        .iter()
        .filter_map(|token| {
            if let Token::Byte(byte) = token {
                Some(*byte)
            } else {
                None
            }
        })
        .collect()
}

fn tokens(source: &[u8]) -> Result<Vec<Token>, BadPattern> {
    let mut tokens = Vec::with_capacity(source.len());
    let mut rest = source;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match first {
            // Two stars in a row mean one; dropping the second keeps matching short.
            b'*' if tokens.last() == Some(&Token::Star) => {}
            b'*' => tokens.push(Token::Star),
            b'?' => tokens.push(Token::AnyByte),
            b'[' => {
                let (set, after) = bracket(rest)?;
                tokens.push(Token::Set(Box::new(set)));
                rest = after;
            }
            b'\\' => {
                let (&escaped, after) = rest.split_first().ok_or(BadPattern::LoneBackslash)?;
                tokens.push(Token::Byte(escaped));
                rest = after;
            }
            plain => tokens.push(Token::Byte(plain)),
        }
    }
    Ok(tokens)
}

/// Parses a bracket expression; `rest` begins after the `[`. Returns the set and the source after `]`.
fn bracket(mut rest: &[u8]) -> Result<(ByteSet, &[u8]), BadPattern> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    if negated {
        rest = &rest[1..];
    }
    let mut set = ByteSet::EMPTY;
    let mut first = true;
    loop {
        match rest {
            [] => return Err(BadPattern::UnclosedBracket),
            // As the first byte `]` is a member, not the end.
            [b']', after @ ..] if !first => {
                let set = if negated { set.inverted() } else { set };
                return Ok((set, after));
            }
            [b'[', b':', after @ ..] => {
                let letters = after
                    .iter()
                    .take_while(|byte| byte.is_ascii_lowercase())
                    .count();
                if let Some(after_class) = after[letters..].strip_prefix(b":]") {
                    insert_class(&mut set, &after[..letters])?;
                    rest = after_class;
                } else {
                    // No class: the `[` is a plain member.
                    rest = member(&mut set, rest)?;
                }
            }
            _ => rest = member(&mut set, rest)?,
        }
        first = false;
    }
}

/// Adds one byte or one range to `set`, and returns the source after it.
fn member<'a>(set: &mut ByteSet, rest: &'a [u8]) -> Result<&'a [u8], BadPattern> {
    let (low, rest) = end_point(rest)?;
    // A `-` before the closing `]` is a plain member.
    if let [b'-', next, ..] = rest
        && *next != b']'
    {
        let (high, rest) = end_point(&rest[1..])?;
        if high < low {
            return Err(BadPattern::BackwardRange);
        }
        (low..=high).for_each(|byte| set.insert(byte));
        return Ok(rest);
    }
    set.insert(low);
    Ok(rest)
}

/// Parses one byte inside brackets: plain, escaped, or as `[.x.]` or `[=x=]`.
fn end_point(rest: &[u8]) -> Result<(u8, &[u8]), BadPattern> {
    match rest {
        [b'[', kind @ (b'.' | b'='), after @ ..] => match after {
            [byte, close, b']', after @ ..] if close == kind => Ok((*byte, after)),
            _ => Err(BadPattern::Collation),
        },
        [b'\\', escaped, after @ ..] => Ok((*escaped, after)),
        [b'\\'] => Err(BadPattern::LoneBackslash),
        [byte, after @ ..] => Ok((*byte, after)),
        [] => Err(BadPattern::UnclosedBracket),
    }
}

fn insert_class(set: &mut ByteSet, name: &[u8]) -> Result<(), BadPattern> {
    let holds: fn(&u8) -> bool = match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        // C's isspace also takes the vertical tab, which Rust's does not.
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return Err(BadPattern::UnknownClass),
    };
    (0..=u8::MAX)
        .filter(holds)
        .for_each(|byte| set.insert(byte));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_fnmatch_does_without_flags() {
        for (pattern, text, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a*", "/a/b/c", true),
            ("/*/x", "/a/b/x", true),
            ("/?b", "//b", true),
            ("*", "", true),
            ("/a[!b]c", "/a/c", true),
            ("/a[^b]c", "/abc", false),
            ("/[]a]", "/]", true),
            ("/[a-]", "/-", true),
            ("/[[:digit:][:upper:]]", "/Q", true),
            ("/[[:digit:]]", "/q", false),
            ("/\\*", "/*", true),
            ("/\\*", "/x", false),
            ("/[\\]]", "/]", true),
            ("/ab*ba", "/aba", false),
            ("/*.so.*", "/lib/x.so.1", true),
            ("/a**b", "/axxb", true),
            ("/[[.-.]a]", "/-", true),
            ("/[a[:]", "/:", true),
        ] {
            let compiled = Pattern::compile(pattern.as_bytes()).unwrap();
            assert_eq!(
                compiled.matches(text.as_bytes()),
                expected,
                "{pattern} on {text}"
            );
        }
    }

    #[test]
    fn doubtful_patterns_are_refused() {
        for (pattern, problem) in [
            ("", BadPattern::Empty),
            ("/a\0", BadPattern::Nul),
            ("/a\\", BadPattern::LoneBackslash),
            ("/a[b", BadPattern::UnclosedBracket),
            ("/a[]", BadPattern::UnclosedBracket),
            ("/a[z-a]", BadPattern::BackwardRange),
            ("/a[[:word:]]", BadPattern::UnknownClass),
            ("/a[[.ab.]]", BadPattern::Collation),
        ] {
            assert_eq!(
                Pattern::compile(pattern.as_bytes()).unwrap_err(),
                problem,
                "{pattern}"
            );
        }
    }
}
