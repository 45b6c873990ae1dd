//! An ordered list of patterns, and the decision on a path.
//!
//! ```text
//! # a comment                      first matching line decides; no match includes
//! ~/var                            '~' passes the entry over, but enters the directory
//! +/var/lib/dpkg/info/*            '+' includes
//! -/var/*                          '-' or nothing excludes; an excluded directory is not entered
//! *.bak
//! /opt/data/                       a trailing '/' matches directories only
//! ```
//!
//! Blanks around a pattern and a carriage return at the end of a line are dropped (write `\ ` to
//! end a pattern in a blank).
//!
//! The verdict on a path depends on that path alone. A walk must not enter an excluded directory, so a `+` line
//! has an effect only where the directories above its files are included or passed over by `~`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use vhashify_packages::ReadError;
use vhashify_packages::pattern::{BadPattern, Pattern};

use super::builtin;
use super::error::ExcludeError;
use super::filter::{Ends, Filter};

/// What to do with one directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Unify the file; enter the directory.
    Include,
    /// Leave the file alone; do not enter the directory.
    Exclude,
    /// Leave the entry itself alone, but enter it if it is a directory.
    SkipEntry,
}

/// A longer pattern file is a mistake (an image, a log), not a list.
const LARGEST_LIST: u64 = 16 << 20;

/// An ordered list of rules, ready to decide on paths.
///
/// Lines without wildcards sit in a hash table, the others in lists. Both are sorted into buckets
/// by the second byte of the paths that they can match (the first is always `/`), and both carry
/// the number of their line, so the first line wins, however it was found.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    // The standard hasher, which has a secret key: guests name configuration files, and could choose names that
    // collide under a hash without one.
    literals: HashMap<Box<[u8]>, Ranked>,
    /// Bytes of the longest of them: a longer path is not hashed.
    longest_literal: usize,
    wildcards: Vec<Wildcard>,
    // One for each second byte of a path, or none at all while there is no rule.
    buckets: Vec<Bucket>,
}

/// The rules that can matter for a path, by its second byte.
#[derive(Debug, Clone, Default)]
struct Bucket {
    /// Bit n is set if a literal of n bytes is here, bit 63 if one of 63 or more: most paths need
    /// not be hashed.
    literal_lengths: u64,
    /// Positions of wildcard lines, in order.
    wildcards: Vec<(Filter, usize)>,
}

impl Bucket {
    fn may_have_literal(&self, path: &[u8]) -> bool {
        self.literal_lengths & length_bit(path) != 0
    }
}

fn length_bit(path: &[u8]) -> u64 {
    1 << path.len().min(63)
}

/// A verdict and the line that gives it. Files that go before all lines have rank 0.
#[derive(Debug, Clone, Copy)]
struct Ranked {
    rank: usize,
    verdict: Verdict,
}

#[derive(Debug, Clone)]
struct Wildcard {
    ranked: Ranked,
    pattern: Pattern,
    directories_only: bool,
}

impl Wildcard {
    fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        (is_directory || !self.directories_only) && self.pattern.matches(path)
    }
}

impl Rules {
    /// Rules that exclude nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The built-in list, [`BUILTIN_LIST`](super::BUILTIN_LIST).
    #[must_use]
    pub fn builtin() -> Self {
        // A test parses the list, so the other arm is never taken. If it were, a list that excludes everything
        // would touch no file.
        Self::parse(Path::new("the built-in list"), builtin::TEXT.as_bytes()).unwrap_or_else(|_| {
            let mut everything = Self::default();
            let ranked = Ranked {
                rank: 1,
                verdict: Verdict::Exclude,
            };
            everything.add_wildcard(ranked, Pattern::anything(), false);
            everything
        })
    }

    /// Parses a pattern file's `text`; `source` is its name for messages.
    ///
    /// # Errors
    /// [`ExcludeError::BadLine`] for the first line that is not a usable pattern.
    pub fn parse(source: &Path, text: &[u8]) -> Result<Self, ExcludeError> {
        let mut rules = Self::default();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let rank = index + 1;
            rules
                .add_line(rank, line)
                .map_err(|reason| ExcludeError::BadLine {
                    path: source.to_owned(),
                    line: rank,
                    reason,
                })?;
        }
        Ok(rules)
    }

    /// Reads and parses a pattern file of the host.
    ///
    /// # Errors
    /// The file cannot be read, is larger than any list (16 MiB), or holds a bad line.
    pub fn read(path: &Path) -> Result<Self, ExcludeError> {
        let file = File::open(path).map_err(ReadError::of_call("open", path))?;
        let mut text = Vec::new();
        file.take(LARGEST_LIST + 1)
            .read_to_end(&mut text)
            .map_err(ReadError::of_call("read", path))?;
        if text.len() as u64 > LARGEST_LIST {
            return Err(ReadError::TooLarge {
                path: path.to_owned(),
                limit: LARGEST_LIST,
                unit: "bytes",
            }
            .into());
        }
        Self::parse(path, &text)
    }

    /// Excludes `files`, literal paths that begin with `/`, before any pattern is looked at.
    #[must_use]
    pub fn with_files_first(mut self, files: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let first = Ranked {
            rank: 0,
            verdict: Verdict::Exclude,
        };
        for file in files {
            self.add_literal(first, file.into_boxed_slice());
        }
        self
    }

    /// Decides on `path`, which begins with `/` and is relative to the guest's root. A path that
    /// no rule matches is included.
    #[must_use]
    pub fn decide(&self, path: &[u8], is_directory: bool) -> Verdict {
        // A path of one byte, "/" itself, is looked up as if a NUL followed: no pattern holds
        // one, so that bucket has exactly the patterns which say nothing about the second byte.
        let second = path.get(1).copied().unwrap_or(0);
        let Some(bucket) = self.buckets.get(usize::from(second)) else {
            return Verdict::Include;
        };
        let literal = if path.len() <= self.longest_literal && bucket.may_have_literal(path) {
            self.literals.get(path)
        } else {
            None
        };
        let before = literal.map_or(usize::MAX, |found| found.rank);
        let ends = Ends::of(path);
        bucket
            .wildcards
            .iter()
            .filter(|(filter, _)| filter.may_match(path, ends))
            .filter_map(|(_, position)| self.wildcards.get(*position))
            .take_while(|wildcard| wildcard.ranked.rank < before)
            .find(|wildcard| wildcard.matches(path, is_directory))
            .map(|wildcard| wildcard.ranked)
            .or(literal.copied())
            .map_or(Verdict::Include, |decided| decided.verdict)
    }

    fn add_line(&mut self, rank: usize, line: &[u8]) -> Result<(), BadPattern> {
        let line = trim(line);
        let (verdict, source) = match line {
            [] | [b'#', ..] => return Ok(()),
            [b'+', rest @ ..] => (Verdict::Include, rest),
            [b'~', rest @ ..] => (Verdict::SkipEntry, rest),
            [b'-', rest @ ..] | rest => (Verdict::Exclude, rest),
        };
        let source = trim_start(source);
        if !matches!(source, [] | [b'/' | b'*' | b'?' | b'[', ..]) {
            return Err(BadPattern::NotRooted);
        }
        let ranked = Ranked { rank, verdict };
        // No path but the root ends in '/', so a final one is free to mean something else.
        let (source, directories_only) = match source {
            [shorter @ .., b'/'] if !shorter.is_empty() => (shorter, true),
            whole => (whole, false),
        };
        let pattern = Pattern::compile(source)?;
        match pattern.literal() {
            Some(text) if !directories_only => self.add_literal(ranked, text.into()),
            _ => self.add_wildcard(ranked, pattern, directories_only),
        }
        Ok(())
    }

    fn add_wildcard(&mut self, ranked: Ranked, pattern: Pattern, directories_only: bool) {
        let entry = (Filter::of(&pattern), self.wildcards.len());
        let second = pattern.prefix().get(1).copied();
        for (byte, bucket) in (0..=u8::MAX).zip(self.buckets()) {
            if second.is_none_or(|wanted| wanted == byte) {
                bucket.wildcards.push(entry);
            }
        }
        self.wildcards.push(Wildcard {
            ranked,
            pattern,
            directories_only,
        });
    }

    fn add_literal(&mut self, ranked: Ranked, text: Box<[u8]>) {
        let second = usize::from(text.get(1).copied().unwrap_or(0));
        if let Some(bucket) = self.buckets().get_mut(second) {
            bucket.literal_lengths |= length_bit(&text);
        }
        self.longest_literal = self.longest_literal.max(text.len());
        // The first line wins; a file that goes before all lines wins over any.
        let entry = self.literals.entry(text).or_insert(ranked);
        if ranked.rank < entry.rank {
            *entry = ranked;
        }
    }

    fn buckets(&mut self) -> &mut [Bucket] {
        if self.buckets.is_empty() {
            self.buckets = vec![Bucket::default(); 256];
        }
        &mut self.buckets
    }
}

/// Drops a carriage return and the blanks around a line, but not an escaped blank at its end.
fn trim(line: &[u8]) -> &[u8] {
    let mut line = trim_start(line.strip_suffix(b"\r").unwrap_or(line));
    while let [shorter @ .., b' ' | b'\t'] = line {
        let backslashes = shorter
            .iter()
            .rev()
            .take_while(|byte| **byte == b'\\')
            .count();
        if backslashes % 2 == 1 {
            break;
        }
        line = shorter;
    }
    line
}

fn trim_start(line: &[u8]) -> &[u8] {
    let blanks = line
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t'))
        .count();
    &line[blanks..]
}
