//! `fstab`: the mounts in a guest before its init starts.

use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use super::ConfigError;
use super::values::{invalid, text};

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FstabEntry {
    /// A device, a directory of the host, or a word.
    pub source: String,
    /// Where in the guest, absolute.
    pub target: PathBuf,
    /// The filesystem; `bind` or `none` for a bind mount.
    pub kind: String,
    /// Options for the mount, without those that are for `mount -a`.
    pub options: Vec<String>,
}

impl FstabEntry {
    /// Whether a directory of the host is shown in the guest.
    #[must_use]
    pub fn is_bind(&self) -> bool {
        self.kind == "bind" || self.options.iter().any(|o| o == "bind" || o == "rbind")
    }
}

/// Reads the list at `path`; none where there is no file.
pub fn read(path: &Path) -> Result<Vec<FstabEntry>, ConfigError> {
    let text = text(path)?.unwrap_or_default();
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry =
            parse(line).map_err(|error| invalid(path, &format!("line {}: {error}", index + 1)))?;
        entries.extend(entry);
    }
    Ok(entries)
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, Error)]
enum LineError {
    #[error("it takes a source, a directory and a type")]
    TooFewFields,
    #[error("{} is not an absolute path without ..", target.display())]
    Target { target: PathBuf },
}

/// One line; `None` when it says `noauto`.
fn parse(line: &str) -> Result<Option<FstabEntry>, LineError> {
    let mut fields = line.split_whitespace().map(unescape);
    let (Some(source), Some(target), Some(kind)) = (fields.next(), fields.next(), fields.next())
    else {
        return Err(LineError::TooFewFields);
    };
    let options = fields.next().unwrap_or_default();
    let target = PathBuf::from(target);
    let is_plain = target
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !target.is_absolute() || !is_plain {
        return Err(LineError::Target { target });
    }
    let options: Vec<String> = options.split(',').map(str::to_owned).collect();
    if options.iter().any(|option| option == "noauto") {
        return Ok(None);
    }
    let ours = ["", "defaults", "auto", "user", "users", "nofail", "_netdev"];
    Ok(Some(FstabEntry {
        source,
        target,
        kind,
        options: options
            .into_iter()
            .filter(|option| !ours.contains(&option.as_str()))
            .collect(),
    }))
}

/// `\040` is a blank, as in every fstab.
fn unescape(field: &str) -> String {
    let mut out = field.to_owned();
    for (code, character) in [("\\040", " "), ("\\011", "\t"), ("\\134", "\\")] {
        out = out.replace(code, character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_line_says_what_is_mounted_where() {
        let entry = parse("none /tmp tmpfs size=16m,mode=1777,nosuid 0 0");
        let entry = entry.unwrap().unwrap();
        assert_eq!(entry.options, ["size=16m", "mode=1777", "nosuid"]);
        assert!(!entry.is_bind());
        let entry = parse(r"/srv/my\040data /srv none bind,ro,defaults").unwrap();
        let entry = entry.unwrap();
        assert_eq!(entry.source, "/srv/my data");
        assert_eq!(entry.options, ["bind", "ro"]);
        assert!(entry.is_bind());
        assert_eq!(parse("none /x tmpfs noauto"), Ok(None));
        for bad in ["none", "none /tmp", "none tmp tmpfs", "a /../etc none bind"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
