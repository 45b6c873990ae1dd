//! What the tree says about running one guest.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::fstab::{self, FstabEntry};
use super::init::InitSettings;
use super::interfaces::{self, Interface};
use super::resources::Resources;
use super::values::{arguments, number, value, words};
use super::{ConfigError, ConfigTree, catalogue};

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

/// Everything that starting, stopping and entering a guest needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestSettings {
    /// The name of its directory in the tree.
    pub name: String,
    /// That directory.
    pub directory: PathBuf,
    /// Its root directory: absolute, without symbolic links.
    pub vdir: PathBuf,
    /// `context`: its static number; without one it takes a free one at each start.
    pub context: Option<u32>,
    /// `uts/nodename`, else the guest's name.
    pub hostname: String,
    /// `uts/domainname`.
    pub domainname: Option<String>,
    /// `shell`: what `enter` runs.
    pub shell: Option<String>,
    /// `apps/init`.
    pub init: InitSettings,
    /// `apps/init/environment` and `environment`: `NAME=VALUE`.
    pub environment: Vec<String>,
    /// `fstab`.
    pub fstab: Vec<FstabEntry>,
    /// `bcapabilities`: what is added to the default set, or with `~` taken from it.
    pub capabilities: Vec<String>,
    /// `flags`.
    pub flags: Vec<String>,
    /// `rlimits` and `ulimits`, for each process of the guest.
    pub limits: Vec<Limit>,
    /// `nice`.
    pub nice: Option<i32>,
    /// `umask`.
    pub umask: Option<u32>,
    /// What it may use, and what surrounds its processes.
    pub resources: Resources,
    /// `cgroup`: files of controllers and what is written into them, by name.
    pub cgroup: Vec<(String, String)>,
    /// `interfaces`.
    pub interfaces: Vec<Interface>,
    /// Whether the guest shares the host's network: `nonetns`, or `spaces/net` with `host`.
    pub shares_network: bool,
    /// `spaces/user` with `own`: its users are others than the host's.
    pub has_own_users: bool,
}

impl GuestSettings {
    /// Reads the directory of a guest, and warns of what has no effect.
    pub(super) fn read(
        tree: &ConfigTree,
        name: &OsStr,
        directory: &Path,
    ) -> Result<Self, ConfigError> {
        catalogue::warn_of_what_has_no_effect(directory);
        let name = name.to_string_lossy().into_owned();
        let at = |below: &str| directory.join(below);
        let mut environment = Vec::new();
        for file in ["environment", "apps/init/environment"] {
            let lines = arguments(&at(file))?.unwrap_or_default();
            environment.extend(lines.into_iter().filter(|line| line.contains('=')));
        }
        let umask = value(&at("umask"))?
            .map(|text| {
                let wrong = || super::values::invalid(&at("umask"), "it is not an octal number");
                u32::from_str_radix(&text, 8)
                    .ok()
                    .filter(|mask| *mask <= 0o777)
                    .ok_or_else(wrong)
            })
            .transpose()?;
        let context = number(&at("context"), "a number from 2 to 65535")?;
        if context.is_some_and(|context| !(2..=65535).contains(&context)) {
            let reason = "it is not a number from 2 to 65535";
            return Err(super::values::invalid(&at("context"), reason));
        }
        let shares_network = at("nonetns").exists()
            || value(&at("spaces/net"))?.is_some_and(|space| space == "host");
        let has_own_users = match value(&at("spaces/user"))?.as_deref() {
            None | Some("host") => false,
            Some("own") if shares_network => {
                let reason = "a guest with users of its own cannot share the host's network; remove this, \
                              or nonetns and spaces/net";
                return Err(super::values::invalid(&at("spaces/user"), reason));
            }
            Some("own") => true,
            Some(_) => {
                let reason = "it is neither own nor host";
                return Err(super::values::invalid(&at("spaces/user"), reason));
            }
        };
        Ok(Self {
            vdir: tree.vdir(OsStr::new(&name))?,
            context,
            hostname: value(&at("uts/nodename"))?.unwrap_or_else(|| name.clone()),
            domainname: value(&at("uts/domainname"))?,
            shell: value(&at("shell"))?,
            init: InitSettings::read(&at("apps/init"))?,
            environment,
            fstab: fstab::read(&at("fstab"))?,
            capabilities: words(&at("bcapabilities"))?,
            resources: Resources::read(directory, &words(&at("flags"))?)?,
            flags: words(&at("flags"))?,
            limits: limits(directory)?,
            nice: number(&at("nice"), "a number")?,
            umask,
            cgroup: cgroup(&at("cgroup"))?,
            interfaces: interfaces::read(&at("interfaces"))?,
            shares_network,
            has_own_users,
            directory: directory.to_path_buf(),
            name,
        })
    }
}

impl GuestSettings {
    /// `apps/vunify/broker`: links are broken for it while it runs.
    #[must_use]
    pub fn has_broker(&self) -> bool {
        self.directory.join("apps/vunify/broker").exists()
    }
}

/// `RESOURCE` sets both, `RESOURCE.soft` and `RESOURCE.hard` one.
///
/// `rss` and `nproc` of `rlimits` are of the whole guest, as util-vserver had them: [`Resources`].
fn limits(directory: &Path) -> Result<Vec<Limit>, ConfigError> {
    limits_of(&[directory.join("rlimits"), directory.join("ulimits")])
}

/// The limits that one directory holds, laid out as `rlimits` is: of each process, and of the guest.
///
/// # Errors
/// A value that is none.
pub fn limits_in(directory: &Path) -> Result<(Vec<Limit>, Resources), ConfigError> {
    let of_guest = Resources::of_limits(directory)?;
    let mut of_processes = limits_of(&[directory.to_path_buf()])?;
    of_processes.retain(|limit| !OF_GUEST.contains(&limit.resource.as_str()));
    Ok((of_processes, of_guest))
}

/// What `rlimits` limits for the whole guest.
const OF_GUEST: [&str; 2] = ["rss", "nproc"];

fn limits_of(places: &[PathBuf]) -> Result<Vec<Limit>, ConfigError> {
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
            if place.ends_with("rlimits") && OF_GUEST.contains(&resource) {
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

/// A limit's value: a number, or `inf` for none.
#[allow(clippy::option_option)] // Not set, set to no limit, set to a limit.
pub(super) fn limit(path: &Path) -> Result<Option<Option<u64>>, ConfigError> {
    let Some(text) = value(path)? else {
        return Ok(None);
    };
    let wrong = || super::values::invalid(path, &format!("{text:?} is not a number or inf"));
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

/// Files of `cgroup`, in the order of their names.
fn cgroup(directory: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(value) = value(&entry.path())? {
            found.push((name, value));
        }
    }
    found.sort();
    Ok(found)
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
