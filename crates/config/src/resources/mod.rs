//! What a guest may use and what surrounds its processes: `sched`, `rlimits` of the whole guest,
//! `cpuset`, `ionice`, `sysctl`, `personality`, `vdevmap`.

use std::fs;
use std::path::{Path, PathBuf};

use vhashify_sys::shown::Shown;

use super::ConfigError;
use super::values::{arguments, invalid, number, value};

/// A page, in which util-vserver counted a guest's memory.
const PAGE: u64 = 4096;

/// All of it; nothing by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// `sched`, else `schedule`.
    pub bucket: Option<TokenBucket>,
    /// `rlimits/rss.min`, in bytes: memory that is not taken from it.
    pub memory_min: Option<u64>,
    /// `rlimits/rss.soft`, in bytes: above this it is slowed down; the inner `None` is no limit.
    pub memory_soft: Option<Option<u64>>,
    /// `rlimits/rss.hard`, or `rlimits/rss`, in bytes.
    pub memory_hard: Option<Option<u64>>,
    /// `rlimits/nproc`: how many processes and threads it may have.
    pub processes: Option<Option<u64>>,
    /// `cpuset/cpus`.
    pub cpus: Option<String>,
    /// `cpuset/mems`.
    pub memory_nodes: Option<String>,
    /// `ionice`.
    pub io_priority: Option<IoPriority>,
    /// `sysctl/*`: names with dots, and values.
    pub sysctls: Vec<(String, String)>,
    /// `personality`, as personality(2) takes it.
    pub personality: Option<u32>,
    /// `vdevmap/*`.
    pub devices: Vec<Device>,
}

/// The token bucket. A process that runs takes one token each tick; see `vserver`'s `context::bucket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TokenBucket {
    /// Tokens that are filled in each interval.
    pub fill_rate: Option<u32>,
    /// The interval, in ticks.
    pub interval: Option<u32>,
    /// How many tokens there must be before held processes go on.
    pub tokens_min: Option<u32>,
    /// How many the bucket holds.
    pub tokens_max: Option<u32>,
    /// Added to the priority of all its processes: -20 to 19, less is more.
    pub prio_bias: Option<i32>,
    /// Only the share is given, and what nobody else wants is free: `idle-time`, or the flag
    /// `sched_prio` without `sched_hard`.
    pub is_soft: bool,
}

/// How its processes come to disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoPriority {
    /// 1 real time, 2 best effort, 3 idle.
    pub class: u8,
    /// 0 first to 7 last.
    pub level: u8,
}

/// A device of the host's that the guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its path in the guest, below `/dev`.
    pub path: PathBuf,
    /// The device of the host's that it is.
    pub target: PathBuf,
}

impl Resources {
    /// Reads them from the directory of a guest.
    pub(super) fn read(directory: &Path, flags: &[String]) -> Result<Self, ConfigError> {
        let at = |below: &str| directory.join(below);
        let mut bucket = bucket(directory)?;
        let has = |flag: &str| flags.iter().any(|own| own == flag);
        if let Some(bucket) = &mut bucket {
            bucket.is_soft |= has("sched_prio") && !has("sched_hard");
        }
        Ok(Self {
            bucket,
            cpus: value(&at("cpuset/cpus"))?,
            memory_nodes: value(&at("cpuset/mems"))?,
            io_priority: io_priority(&at("ionice"))?,
            sysctls: sysctls(&at("sysctl"))?,
            personality: personality(&at("personality"))?,
            devices: devices(&at("vdevmap"))?,
            ..Self::of_limits(&at("rlimits"))?
        })
    }

    /// What a directory that is laid out as `rlimits` is limits for the whole guest; names what only
    /// the patched kernel counted.
    pub(super) fn of_limits(directory: &Path) -> Result<Self, ConfigError> {
        for resource in [
            "nsock", "openfd", "anon", "shmem", "semary", "nsems", "dentry",
        ] {
            for suffix in ["", ".min", ".soft", ".hard"] {
                let path = directory.join(format!("{resource}{suffix}"));
                if path.exists() {
                    tracing::warn!(
                        "{} has no effect: a stock kernel does not count that by guest",
                        Shown::path(&path)
                    );
                }
            }
        }
        let memory = |suffix: &str| pages(&directory.join(format!("rss{suffix}")));
        let processes =
            |suffix: &str| super::settings::limit(&directory.join(format!("nproc{suffix}")));
        let both = memory("")?;
        Ok(Self {
            memory_min: memory(".min")?.flatten(),
            memory_soft: memory(".soft")?,
            memory_hard: memory(".hard")?.or(both),
            processes: processes(".hard")?
                .or(processes("")?)
                .or(processes(".soft")?),
            ..Self::default()
        })
    }
}

/// A number of pages, in bytes.
#[allow(clippy::option_option)] // Not set, set to no limit, set to a limit.
fn pages(path: &Path) -> Result<Option<Option<u64>>, ConfigError> {
    let Some(limit) = super::settings::limit(path)? else {
        return Ok(None);
    };
    limit
        .map(|pages| {
            let too_many = || invalid(path, "it is more pages than there can be; write inf");
            pages.checked_mul(PAGE).ok_or_else(too_many)
        })
        .transpose()
        .map(Some)
}

/// `sched/*`, else the lines of `schedule`; `None` where there is neither.
fn bucket(directory: &Path) -> Result<Option<TokenBucket>, ConfigError> {
    let sched = directory.join("sched");
    if sched.is_dir() {
        return TokenBucket::read(&sched).map(Some);
    }
    let schedule = directory.join("schedule");
    let Some(lines) = arguments(&schedule)? else {
        return Ok(None);
    };
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    of_lines(&lines)
        .map(Some)
        .map_err(|reason| invalid(&schedule, &reason))
}

impl TokenBucket {
    /// Reads a directory that is laid out as `sched` is.
    ///
    /// # Errors
    /// A value that is none.
    pub fn read(sched: &Path) -> Result<Self, ConfigError> {
        for (name, why) in [
            ("tokens", "the bucket of a stock kernel is empty at first"),
            ("fill-rate2", "a stock kernel has one rate"),
            ("interval2", "a stock kernel has one rate"),
        ] {
            if sched.join(name).exists() {
                let shown = Shown::path(&sched.join(name)).to_string();
                tracing::warn!("{shown} has no effect: {why}");
            }
        }
        for entry in fs::read_dir(sched).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                tracing::warn!(
                    "{} has no effect: a stock kernel has one bucket for all processors",
                    Shown::path(&entry.path())
                );
            }
        }
        let count = |name: &str| positive(&sched.join(name));
        let bias = |name: &str| prio_bias(&sched.join(name));
        Ok(Self {
            fill_rate: count("fill-rate")?,
            interval: count("interval")?,
            tokens_min: number(&sched.join("tokens-min"), "a number of tokens")?,
            tokens_max: count("tokens-max")?,
            prio_bias: match bias("prio-bias")? {
                None => bias("priority-bias")?,
                own => own,
            },
            is_soft: sched.join("idle-time").exists(),
        })
    }
}

fn positive(path: &Path) -> Result<Option<u32>, ConfigError> {
    match number(path, "a number from 1 on")? {
        Some(0) => Err(invalid(path, "0 is not a number from 1 on")),
        found => Ok(found),
    }
}

fn prio_bias(path: &Path) -> Result<Option<i32>, ConfigError> {
    let expected = "a number from -20 to 19";
    match number(path, expected)? {
        Some(bias) if !(-20..=19).contains(&bias) => {
            Err(invalid(path, &format!("{bias} is not {expected}")))
        }
        found => Ok(found),
    }
}

/// Fill rate, interval, tokens, tokens-min, tokens-max, and a line that was never used.
fn of_lines(lines: &[&str]) -> Result<TokenBucket, String> {
    let [fill_rate, interval, _, tokens_min, tokens_max, ..] = lines else {
        return Err(
            "it has fewer than five lines: fill rate, interval, tokens, tokens-min, tokens-max; \
             or write sched/fill-rate and the like instead"
                .to_owned(),
        );
    };
    let count = |text: &str, least: u32| {
        let parsed = text.parse().ok().filter(|count| *count >= least);
        parsed.ok_or_else(|| format!("{text:?} is not a number from {least} on"))
    };
    Ok(TokenBucket {
        fill_rate: Some(count(fill_rate, 1)?),
        interval: Some(count(interval, 1)?),
        tokens_min: Some(count(tokens_min, 0)?),
        tokens_max: Some(count(tokens_max, 1)?),
        prio_bias: None,
        is_soft: false,
    })
}

/// `class`, by number or name, and `priority` or `prio`.
fn io_priority(directory: &Path) -> Result<Option<IoPriority>, ConfigError> {
    let path = directory.join("class");
    let class = match value(&path)?.as_deref() {
        None => None,
        Some("0" | "none") => Some(0),
        Some("1" | "realtime" | "rt") => Some(1),
        Some("2" | "best-effort" | "be") => Some(2),
        Some("3" | "idle") => Some(3),
        Some(other) => {
            let reason = format!("{other:?} is no class; write realtime, best-effort or idle");
            return Err(invalid(&path, &reason));
        }
    };
    let mut level = None;
    for name in ["priority", "prio"] {
        let path = directory.join(name);
        let expected = "a number from 0 to 7";
        match number(&path, expected)? {
            Some(given @ 0..=7) => level = level.or(Some(given)),
            Some(other) => return Err(invalid(&path, &format!("{other} is not {expected}"))),
            None => {}
        }
    }
    Ok(match (class, level) {
        (None, None) | (Some(0), _) => None,
        (class, level) => Some(IoPriority {
            class: class.unwrap_or(2),
            // As ionice(1) has it.
            level: if class == Some(3) {
                0
            } else {
                level.unwrap_or(4)
            },
        }),
    })
}

/// `X/setting` and `X/value`, in the order of the names X.
fn sysctls(directory: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let mut found = Vec::new();
    for place in directories(directory) {
        let path = place.join("setting");
        let Some(setting) = value(&path)? else {
            return Err(invalid(
                &path,
                "it is missing or empty; write the name of a parameter",
            ));
        };
        let is_good = setting.split(['.', '/']).all(|part| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            !part.is_empty() && part.chars().all(is_name)
        });
        if !is_good {
            let reason =
                format!("{setting:?} is not the name of a parameter, as net.ipv4.ip_forward is");
            return Err(invalid(&path, &reason));
        }
        let value_path = place.join("value");
        let Some(value) = value(&value_path)? else {
            return Err(invalid(
                &value_path,
                "it is missing or empty; write the value",
            ));
        };
        found.push((setting.replace('/', "."), value));
    }
    Ok(found)
}

/// The type on the first line, then flags, one a line.
fn personality(path: &Path) -> Result<Option<u32>, ConfigError> {
    let Some(lines) = arguments(path)? else {
        return Ok(None);
    };
    let words: Vec<&str> = lines
        .iter()
        .map(|line| line.trim())
        .filter(|line| !line.is_empty())
        .collect();
    parse_personality(&words)
        .map(Some)
        .map_err(|reason| invalid(path, &reason))
}

fn parse_personality(words: &[&str]) -> Result<u32, String> {
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
        return Err("it is empty; write LINUX or LINUX32, then flags, one a line".to_owned());
    };
    let mut bits = find(&TYPES, kind)
        .ok_or_else(|| format!("{kind:?} is no personality here; write LINUX or LINUX32"))?;
    for flag in flags {
        bits |= find(&FLAGS, flag)
            .ok_or_else(|| format!("{flag:?} is no flag; personality(2) lists them"))?;
    }
    Ok(bits)
}

/// Each directory of `vdevmap` that has `open`, in the order of their names.
fn devices(directory: &Path) -> Result<Vec<Device>, ConfigError> {
    let mut found = Vec::new();
    for place in directories(directory) {
        for (name, why) in [
            ("create", "a guest makes no device nodes; say open"),
            ("flags", "there are none"),
        ] {
            if place.join(name).exists() {
                let shown = Shown::path(&place.join(name)).to_string();
                tracing::warn!("{shown} has no effect: {why}");
            }
        }
        if !place.join("open").exists() {
            continue;
        }
        let path = place.join("device");
        let Some(device) = value(&path)? else {
            return Err(invalid(
                &path,
                "it is missing or empty; write the path of a device",
            ));
        };
        let fault = fault_in_device(&device);
        if let Some(reason) = fault {
            return Err(invalid(&path, &format!("{device:?}: {reason}")));
        }
        let target = if place.join("remap").exists() {
            let path = place.join("target");
            let missing = || {
                invalid(
                    &path,
                    "remap needs it; write the path of a device of the host",
                )
            };
            value(&path)?.ok_or_else(missing)?
        } else {
            device.clone()
        };
        found.push(Device {
            path: device.into(),
            target: target.into(),
        });
    }
    Ok(found)
}

/// What keeps a path from being that of a device in a guest: where something of ours is, or a way
/// out of `/dev`.
fn fault_in_device(path: &str) -> Option<&'static str> {
    const OURS: [&str; 15] = [
        "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
        "stderr", "stdin", "stdout", "tty", "urandom",
    ];
    let Some(below) = path.strip_prefix("/dev/") else {
        return Some("it is not below /dev");
    };
    let mut parts = below.split('/');
    if parts
        .clone()
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Some("it is not a plain path");
    }
    let first = parts.next().unwrap_or_default();
    (OURS.contains(&first) || first == "zero").then_some("every guest has that of its own")
}

/// The directories in a directory, in the order of their names.
fn directories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::{fault_in_device, of_lines, parse_personality};

    #[test]
    fn an_old_schedule_is_five_numbers() {
        let bucket = of_lines(&["7", "32", "500", "50", "500", "dummy"]).unwrap();
        assert_eq!((bucket.fill_rate, bucket.interval), (Some(7), Some(32)));
        assert_eq!(
            (bucket.tokens_min, bucket.tokens_max),
            (Some(50), Some(500))
        );
        assert!(of_lines(&["7", "32"]).is_err());
        assert!(of_lines(&["0", "32", "1", "1", "1"]).is_err());
        assert!(of_lines(&["-7", "32", "1", "1", "1"]).is_err());
    }

    #[test]
    fn a_personality_is_a_type_and_flags() {
        for (words, bits) in [
            (&["LINUX"][..], Ok(0)),
            (&["PER_LINUX32"], Ok(8)),
            (&["linux32", "ADDR_NO_RANDOMIZE"], Ok(0x4_0008)),
            (&["LINUX", "UNAME26", "SHORT_INODE"], Ok(0x102_0000)),
        ] {
            assert_eq!(parse_personality(words), bits, "{words:?}");
        }
        for words in [&[][..], &["SOLARIS"], &["LINUX", "FLY"]] {
            assert!(parse_personality(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_device_is_a_plain_path_below_dev_that_is_not_ours() {
        for good in ["/dev/fuse", "/dev/net/tun", "/dev/zero2"] {
            assert_eq!(fault_in_device(good), None, "{good}");
        }
        for bad in [
            "/dev",
            "/dev/",
            "/etc/passwd",
            "/dev/../etc/x",
            "/dev/net//tun",
            "fuse",
            "/dev/null",
            "/dev/pts/0",
            "/dev/shm/x",
            "/dev/./fuse",
            "/dev/zero",
        ] {
            assert!(fault_in_device(bad).is_some(), "{bad}");
        }
    }
}
