//! apk: the list of installed packages names their files, and the protected paths tell which of these are
//! configuration.
//!
//! ```text
//! P:alpine-baselayout          a package; an empty line ends it
//! F:etc                        a directory
//! a:0:0:644                    its attributes, not used here
//! R:hosts                      a file in it
//! ```
//!
//! A line of `etc/apk/protected_paths.d/*.list` is a pattern, which apk matches name by name from the
//! root. `+` or nothing before it protects the path, `-` does not, `@` protects symbolic links only, and
//! `!` keeps the file always. A protected directory protects everything below it. The longest
//! pattern wins, and of equally long ones the last.

use std::path::Path;

use crate::configuration_files::{ConfigurationFiles, Excessive};
use crate::pattern::Pattern;
use crate::root::Root;
use crate::{PackageError, ReadError};

/// The patterns that apk has built in.
const DEFAULTS: &[u8] = b"+etc\n@etc/init.d\n!etc/apk\n";

/// The most patterns that a guest may have. Alpine itself adds none to the defaults.
const MOST_PATTERNS: usize = 1000;
/// The most bytes that all lists of patterns may have together. A compiled pattern takes some twenty
/// times the memory of its text.
const MOST_LIST_BYTES: usize = 1 << 20;

pub(crate) fn read(root: &Root<'_>, files: &mut ConfigurationFiles) -> Result<bool, PackageError> {
    let mut seen = Vec::new();
    let mut protected = None;
    // apk 3 uses the second name. With a merged /usr both are the same file.
    for name in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        let Some(file) = root.read(Path::new(name))? else {
            continue;
        };
        if seen.contains(&file.version.inode) {
            continue;
        }
        seen.push(file.version.inode);
        let rules = match &mut protected {
            Some(rules) => rules,
            none => none.insert(Protected::read(root)?),
        };
        parse(&file.bytes, rules, files).map_err(|Excessive(reason)| PackageError::Database {
            path: file.path,
            reason,
        })?;
    }
    Ok(!seen.is_empty())
}

pub(crate) fn parse(
    text: &[u8],
    rules: &Protected,
    files: &mut ConfigurationFiles,
) -> Result<(), Excessive> {
    let mut directory = rules.directory(b"", files)?;
    for line in text.split(|byte| *byte == b'\n') {
        match line {
            // A file before the first F: line of a package is in the root directory.
            [] => directory = rules.directory(b"", files)?,
            [b'F', b':', name @ ..] => directory = rules.directory(name, files)?,
            [b'R', b':', name @ ..] if directory.protects(name, files)? => {
                let slash: &[u8] = if directory.path.is_empty() { b"" } else { b"/" };
                files.add(&[directory.path, slash, name])?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The protected paths, in order.
#[derive(Debug, Default)]
pub(crate) struct Protected {
    rules: Vec<ProtectedPath>,
    list_bytes: usize,
}

#[derive(Debug)]
struct ProtectedPath {
    names: Vec<Pattern>,
    protects: bool,
}

/// A directory, and how the rules apply to the files in it.
struct Directory<'r, 'p> {
    path: &'p [u8],
    /// Whether it protects a file that matches none of `last_names`.
    protects: bool,
    /// Rules that match the directory and have one name left for the file; each says whether it protects.
    last_names: Vec<(&'r Pattern, bool)>,
}

impl Protected {
    fn read(root: &Root<'_>) -> Result<Self, PackageError> {
        let mut rules = Self::defaults();
        for name in root
            .list(Path::new("etc/apk/protected_paths.d"))?
            .unwrap_or_default()
        {
            // apk ignores files with other names, and hidden ones.
            if name.extension().is_none_or(|extension| extension != "list") {
                continue;
            }
            let Some(file) = root.read(&name)? else {
                continue;
            };
            rules.add_list(&file.path, &file.bytes)?;
        }
        Ok(rules)
    }

    /// The rules that apk has built in.
    pub(crate) fn defaults() -> Self {
        let mut rules = Self::default();
        rules.extend(DEFAULTS);
        rules
    }

    /// Adds a guest's list. `path` is its name for messages.
    pub(crate) fn add_list(&mut self, path: &Path, text: &[u8]) -> Result<(), ReadError> {
        let too_large = |limit, unit| ReadError::TooLarge {
            path: path.to_owned(),
            limit,
            unit,
        };
        self.list_bytes = self.list_bytes.saturating_add(text.len());
        if self.list_bytes > MOST_LIST_BYTES {
            return Err(too_large(MOST_LIST_BYTES as u64, "bytes"));
        }
        self.extend(text);
        if self.rules.len() > MOST_PATTERNS {
            return Err(too_large(MOST_PATTERNS as u64, "patterns"));
        }
        Ok(())
    }

    fn extend(&mut self, text: &[u8]) {
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter_map(ProtectedPath::parse);
        // One rule past the limit is enough for `add_list` to notice.
        let room = (MOST_PATTERNS + 1).saturating_sub(self.rules.len());
        self.rules.extend(lines.take(room));
    }

    fn directory<'p>(
        &self,
        path: &'p [u8],
        files: &mut ConfigurationFiles,
    ) -> Result<Directory<'_, 'p>, Excessive> {
        let names: Vec<_> = path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .collect();
        // The depth of the longest pattern so far that matches the directory or one above it, and whether
        // it protects.
        let mut decided = (0, false);
        let mut last_names = Vec::new();
        // The loop visits every rule even for an empty path.
        files.spend(self.rules.len() as u64)?;
        for rule in &self.rules {
            let mut matching = true;
            for (pattern, name) in rule.names.iter().zip(&names) {
                files.spend(pattern.most_steps(name.len()))?;
                matching = pattern.matches(name);
                if !matching {
                    break;
                }
            }
            if !matching {
                continue;
            }
            let depth = rule.names.len();
            if depth <= names.len() && depth >= decided.0 {
                decided = (depth, rule.protects);
            } else if depth == names.len() + 1
                && let Some(last) = rule.names.last()
            {
                last_names.push((last, rule.protects));
            }
        }
        Ok(Directory {
            path,
            protects: decided.1,
            last_names,
        })
    }
}

impl Directory<'_, '_> {
    fn protects(&self, name: &[u8], files: &mut ConfigurationFiles) -> Result<bool, Excessive> {
        let mut protects = self.protects;
        for (pattern, verdict) in &self.last_names {
            files.spend(pattern.most_steps(name.len()))?;
            if pattern.matches(name) {
                protects = *verdict;
            }
        }
        Ok(protects)
    }
}

impl ProtectedPath {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = line.trim_ascii();
        let (protects, path) = match line {
            [] | [b'#', ..] => return None,
            // vhashify never unifies symbolic links, so a rule for these protects no file.
            [b'-' | b'@', path @ ..] => (false, path),
            [b'+' | b'!', path @ ..] | path => (true, path),
        };
        let names: Vec<_> = path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            // fnmatch takes an invalid pattern literally.
            .map(|name| Pattern::compile(name).unwrap_or_else(|_| Pattern::exactly(name)))
            .collect();
        (!names.is_empty()).then_some(Self { names, protects })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration_files::MOST_WORK;

    #[test]
    fn the_longest_then_the_last_pattern_decides() {
        let mut rules = Protected::defaults();
        rules.extend(
            b"# comment\n-etc/ssl/certs\n/opt/*/conf/\n+etc/ssl/certs/*.local\nsrv\n-srv\n",
        );
        for (directory, name, expected) in [
            ("etc", "hosts", true),
            ("etc/conf.d", "x", true),
            ("etc/init.d", "x", false),
            ("etc/apk", "world", true),
            ("etc/ssl/certs", "a.pem", false),
            ("etc/ssl/certs", "a.local", true),
            ("etc/ssl", "openssl.cnf", true),
            ("opt/x/conf/deep", "a", true),
            ("opt/x/data", "a", false),
            ("srv", "a", false),
            ("usr/bin", "a", false),
            ("", "etc", true),
        ] {
            let mut files = ConfigurationFiles::default();
            let directory = rules.directory(directory.as_bytes(), &mut files).unwrap();
            let verdict = directory.protects(name.as_bytes(), &mut files).unwrap();
            assert_eq!(verdict, expected, "{:?} {name}", directory.path);
        }
    }

    #[test]
    fn looking_at_the_rules_is_work_even_for_an_empty_line() {
        let rules = Protected::defaults();
        let mut files = ConfigurationFiles::default();
        files.spend(MOST_WORK).unwrap();
        assert!(rules.directory(b"", &mut files).is_err());
    }

    #[test]
    fn long_lists_are_not_compiled() {
        let mut rules = Protected::default();
        let half = b"?".repeat(MOST_LIST_BYTES / 2);
        for _ in 0..2 {
            rules.add_list(Path::new("/list"), &half).unwrap();
        }
        let error = rules.add_list(Path::new("/list"), b"?").unwrap_err();
        assert!(matches!(error, ReadError::TooLarge { .. }), "{error}");
    }
}
