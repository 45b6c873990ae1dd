//! What the whole guest may use, and attributes that all its processes have: `sched`, `rlimits` of the whole guest,
//! `cpuset`, `ionice`, `sysctl`, `personality`, `vdevmap`.

mod devices;
mod io_priority;
mod personality;
mod token_bucket;

use std::fs;
use std::path::{Path, PathBuf};

use vhashify_sys::shown::Shown;

pub use devices::Device;
pub use io_priority::IoPriority;
pub use token_bucket::TokenBucket;

use super::ConfigError;
use super::limits::limit;
use super::values::{invalid, value};

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

impl Resources {
    /// Reads them from the directory of a guest.
    pub(super) fn read(directory: &Path, flags: &[String]) -> Result<Self, ConfigError> {
        let at = |below: &str| directory.join(below);
        let mut bucket = token_bucket::read(directory)?;
        let has = |flag: &str| flags.iter().any(|own| own == flag);
        if let Some(bucket) = &mut bucket {
            bucket.is_soft |= has("sched_prio") && !has("sched_hard");
        }
        Ok(Self {
            bucket,
            cpus: value(&at("cpuset/cpus"))?,
            memory_nodes: value(&at("cpuset/mems"))?,
            io_priority: io_priority::read(&at("ionice"))?,
            sysctls: sysctls(&at("sysctl"))?,
            personality: personality::read(&at("personality"))?,
            devices: devices::read(&at("vdevmap"))?,
            ..Self::of_limits(&at("rlimits"))?
        })
    }

    /// Reads the limits of the whole guest from a directory that is laid out as `rlimits` is. Warns of resources
    /// that only the patched kernel counted.
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
        let processes = |suffix: &str| limit(&directory.join(format!("nproc{suffix}")));
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
    let Some(pages) = limit(path)? else {
        return Ok(None);
    };
    pages
        .map(|pages| {
            let too_many = || invalid(path, "it is more pages than there can be; write inf");
            pages.checked_mul(PAGE).ok_or_else(too_many)
        })
        .transpose()
        .map(Some)
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
