//! One value per file: how each form of it is read.

use std::fs;
use std::io;
use std::path::Path;

use super::ConfigError;

/// More than any value or list of the tree needs.
const LARGEST: u64 = 1 << 20;

/// The text of a file, or `None` where there is none.
pub fn text(path: &Path) -> Result<Option<String>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    match fs::metadata(path) {
        Err(error) if is_missing(&error) => match fs::read_link(path) {
            Ok(target) => Err(ConfigError::Dangling {
                link: path.to_path_buf(),
                target,
            }),
            Err(_) => Ok(None),
        },
        Err(error) => Err(unreadable(error)),
        Ok(found) if found.is_dir() => Err(ConfigError::NotFile {
            path: path.to_path_buf(),
        }),
        Ok(found) if found.len() > LARGEST => Err(invalid(path, "it is larger than 1 MiB")),
        Ok(_) => {
            let bytes = fs::read(path).map_err(unreadable)?;
            let text = String::from_utf8(bytes).map_err(|_| invalid(path, "it is not UTF-8"))?;
            if text.contains('\0') {
                return Err(invalid(path, "it holds a NUL byte"));
            }
            Ok(Some(text))
        }
    }
}

/// The one value in a file; a file without one is as good as none.
pub fn value(path: &Path) -> Result<Option<String>, ConfigError> {
    let text = text(path)?.unwrap_or_default();
    let value = text.lines().next().unwrap_or_default().trim();
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

/// A number in a file.
pub fn number<N: std::str::FromStr>(path: &Path, expected: &str) -> Result<Option<N>, ConfigError> {
    value(path)?
        .map(|text| {
            let wrong = || invalid(path, &format!("{text:?} is not {expected}"));
            text.parse().map_err(|_| wrong())
        })
        .transpose()
}

/// Every line as it stands: the arguments of a command. `None` where there is no file.
pub fn arguments(path: &Path) -> Result<Option<Vec<String>>, ConfigError> {
    Ok(text(path)?.map(|text| text.lines().map(str::to_owned).collect()))
}

/// The words of a list: one or more a line, without comments.
pub fn words(path: &Path) -> Result<Vec<String>, ConfigError> {
    let text = text(path)?.unwrap_or_default();
    let lines = text.lines().map(|line| match line.split_once('#') {
        Some((before, _)) => before,
        None => line,
    });
    let words = lines.flat_map(|line| line.split(|c: char| c.is_whitespace() || c == ','));
    Ok(words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect())
}

/// A value that means nothing.
pub fn invalid(path: &Path, reason: &str) -> ConfigError {
    ConfigError::Value {
        path: path.to_path_buf(),
        reason: reason.to_owned(),
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
    )
}
