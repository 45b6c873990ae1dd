//! Limits as util-vserver wrote them: one file for each resource, or two for its soft and hard part.

use std::path::{Path, PathBuf};

use super::ConfigError;
use super::values::{invalid, value};

/// One file of `rlimits` or `ulimits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The resource as setrlimit(2) calls it, in lower case and without `RLIMIT_`.
    pub resource: String,
    /// Enforced; `None` is unlimited.
    pub soft: Option<u64>,
    /// How far the guest may raise it; `None` is unlimited.
    pub hard: Option<u64>,
}

/// Whether a resource of `rlimits` is limited for the whole guest, as util-vserver had it, and not for each process.
pub(super) fn is_of_guest(resource: &str) -> bool {
    ["rss", "nproc"].contains(&resource)
}

/// The limits of each process in these directories, the later over the earlier. `RESOURCE` sets both parts,
/// `RESOURCE.soft` and `RESOURCE.hard` one.
pub(super) fn of_processes(places: &[PathBuf]) -> Result<Vec<Limit>, ConfigError> {
    const RESOURCES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let mut limits = Vec::new();
    for resource in RESOURCES {
        let mut values = [None, None];
        for place in places {
            if place.ends_with("rlimits") && is_of_guest(resource) {
                continue;
            }
            for (suffix, parts) in [("", &[0, 1][..]), (".soft", &[0]), (".hard", &[1])] {
                let path = place.join(format!("{resource}{suffix}"));
                if let Some(limit) = limit(&path)? {
                    for part in parts {
                        values[*part] = Some(limit);
                    }
                }
            }
        }
        let [soft, hard] = values;
        if let Some(either) = soft.or(hard) {
            let soft = soft.unwrap_or(either);
            limits.push(Limit {
                resource: resource.to_owned(),
                soft,
                hard: hard.unwrap_or(soft),
            });
        }
    }
    Ok(limits)
}

/// The limit in a file: a number, or `inf` for none.
#[allow(clippy::option_option)] // Not set, set to no limit, set to a limit.
pub(super) fn limit(path: &Path) -> Result<Option<Option<u64>>, ConfigError> {
    let Some(text) = value(path)? else {
        return Ok(None);
    };
    let wrong = || invalid(path, &format!("{text:?} is not a number or inf"));
    parse_limit(&text).map(Some).ok_or_else(wrong)
}

/// A limit as util-vserver wrote them: a number with `k`, `m` (thousands), `K`, `M`, `G` (of 1024)
/// or nothing behind it, or `inf`, which is the inner `None`.
#[must_use]
#[allow(clippy::option_option)] // No limit's text, no limit, a limit.
pub fn parse_limit(text: &str) -> Option<Option<u64>> {
    if ["inf", "infinity", "unlimited", "max", "-1"].contains(&text) {
        return Some(None);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| is_plain)?;
    number.checked_mul(factor).map(Some)
}

#[cfg(test)]
mod tests {
    use super::parse_limit;

    #[test]
    fn a_limit_is_a_number_with_a_unit_or_none() {
        for (text, limit) in [
            ("0", Some(Some(0))),
            ("100", Some(Some(100))),
            ("2k", Some(Some(2_000))),
            ("2K", Some(Some(2_048))),
            ("3M", Some(Some(3 << 20))),
            ("1G", Some(Some(1 << 30))),
            ("inf", Some(None)),
            ("", None),
            ("K", None),
            ("-5", None),
            ("+5", None),
            ("5T", None),
            ("1e3", None),
            ("99999999999999999G", None),
        ] {
            assert_eq!(parse_limit(text), limit, "{text}");
        }
    }
}
