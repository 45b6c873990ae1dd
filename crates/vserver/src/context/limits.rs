//! A guest's limits, and which files of its cgroup's controllers hold them, in either version. Pure.

use serde::{Deserialize, Serialize};

/// The version of the hierarchies that a host uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller.
    One,
    /// One for all.
    Two,
}

/// One limit. `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// Bytes of memory, page cache included, above which the guest's processes are killed.
    Memory(Option<u64>),
    /// Bytes above which memory is taken from it first.
    MemorySoft(Option<u64>),
    /// Bytes that are not taken from it.
    MemoryMin(u64),
    /// Processes and threads.
    Processes(Option<u64>),
    /// Its share of processors against other guests: 1 to 10,000, by default 100.
    CpuWeight(u64),
    /// Processors' time.
    CpuTime(CpuTime),
    /// Its share of disks against other guests: 1 to 10,000, by default 100.
    IoWeight(u64),
    /// How much of one disk it may read or write.
    IoRate {
        /// Major and minor number of the disk.
        disk: (u32, u32),
        /// Bytes or operations, read or written.
        kind: IoRate,
        /// A second.
        most: Option<u64>,
    },
    /// Processors that it may use, as cpuset(7) lists them.
    Cpus(String),
    /// Memory nodes that it may use, likewise.
    MemoryNodes(String),
}

/// Processors' time, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTime {
    /// How much of all processors together in a period; `None` is no limit.
    pub quota: Option<u64>,
    /// The period.
    pub period: u64,
    /// Unused time of earlier periods that may be used later.
    pub burst: u64,
}

impl Default for CpuTime {
    fn default() -> Self {
        Self {
            quota: None,
            period: 100_000,
            burst: 0,
        }
    }
}

/// A rate of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IoRate {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Reads.
    Reads,
    /// Writes.
    Writes,
}

/// One value to write, into the first of these files that is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    /// Files and the value as each takes it.
    pub any_of: Vec<(&'static str, String)>,
    /// A kernel that has none of them behaves so without.
    pub is_optional: bool,
}

impl Limit {
    /// The values to write for it, in this order. Empty where that version cannot do it.
    #[must_use]
    pub fn writes(&self, version: Version) -> Vec<Write> {
        use Version::{One, Two};
        let one = |file: &'static str, value: String| vec![write(file, value)];
        match (self, version) {
            (Self::Memory(most), Two) => one("memory.max", or(*most, "max")),
            (Self::Memory(most), One) => one("memory.limit_in_bytes", or(*most, "-1")),
            (Self::MemorySoft(most), Two) => one("memory.high", or(*most, "max")),
            (Self::MemorySoft(most), One) => one("memory.soft_limit_in_bytes", or(*most, "-1")),
            (Self::MemoryMin(least), Two) => one("memory.min", least.to_string()),
            (Self::MemoryMin(_), One) => Vec::new(),
            (Self::Processes(most), _) => one("pids.max", or(*most, "max")),
            (Self::CpuWeight(weight), Two) => one("cpu.weight", weight.to_string()),
            // 1024 is its default.
            (Self::CpuWeight(weight), One) => {
                one("cpu.shares", (weight * 1024 / 100).max(2).to_string())
            }
            (Self::CpuTime(time), version) => time.writes(version),
            (Self::IoWeight(weight), Two) => vec![Write {
                any_of: vec![
                    ("io.weight", weight.to_string()),
                    ("io.bfq.weight", weight.min(&1000).to_string()),
                ],
                is_optional: false,
            }],
            (Self::IoWeight(weight), One) => vec![Write {
                any_of: vec![
                    ("blkio.bfq.weight", weight.min(&1000).to_string()),
                    ("blkio.weight", weight.clamp(&10, &1000).to_string()),
                ],
                is_optional: false,
            }],
            (Self::IoRate { disk, kind, most }, Two) => {
                let (major, minor) = disk;
                let value = format!("{major}:{minor} {}={}", kind.key(), or(*most, "max"));
                one("io.max", value)
            }
            (Self::IoRate { disk, kind, most }, One) => {
                let (major, minor) = disk;
                // Zero takes the limit away.
                one(kind.file(), format!("{major}:{minor} {}", or(*most, "0")))
            }
            (Self::Cpus(list), _) => one("cpuset.cpus", list.clone()),
            (Self::MemoryNodes(list), _) => one("cpuset.mems", list.clone()),
        }
    }

    /// Its name, for messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "the limit of memory",
            Self::MemorySoft(_) => "the soft limit of memory",
            Self::MemoryMin(_) => "the least memory",
            Self::Processes(_) => "the limit of processes",
            Self::CpuWeight(_) => "the weight of processors",
            Self::CpuTime(_) => "the limit of processors' time",
            Self::IoWeight(_) => "the weight of I/O",
            Self::IoRate { .. } => "the rate of I/O",
            Self::Cpus(_) => "the list of processors",
            Self::MemoryNodes(_) => "the list of memory nodes",
        }
    }
}

impl CpuTime {
    /// The burst goes first, since it may not be larger than the quota at any moment, and in the
    /// first version the quota, too, since it may not fit a new period.
    fn writes(&self, version: Version) -> Vec<Write> {
        let optional = |file: &'static str, value: u64, is_optional| Write {
            is_optional,
            ..write(file, value.to_string())
        };
        let burst = match version {
            Version::One => "cpu.cfs_burst_us",
            Version::Two => "cpu.max.burst",
        };
        let mut writes = vec![optional(burst, 0, true)];
        match version {
            Version::One => writes.extend([
                write("cpu.cfs_quota_us", "-1".to_owned()),
                write("cpu.cfs_period_us", self.period.to_string()),
                write("cpu.cfs_quota_us", or(self.quota, "-1")),
            ]),
            Version::Two => {
                let value = format!("{} {}", or(self.quota, "max"), self.period);
                writes.push(write("cpu.max", value));
            }
        }
        if self.burst > 0 {
            writes.push(optional(burst, self.burst, false));
        }
        writes
    }
}

impl IoRate {
    const fn key(self) -> &'static str {
        match self {
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
            Self::Reads => "riops",
            Self::Writes => "wiops",
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::ReadBytes => "blkio.throttle.read_bps_device",
            Self::WriteBytes => "blkio.throttle.write_bps_device",
            Self::Reads => "blkio.throttle.read_iops_device",
            Self::Writes => "blkio.throttle.write_iops_device",
        }
    }

    /// The rate that a key of `io.max` stands for.
    #[must_use]
    pub fn of_key(key: &str) -> Option<Self> {
        let all = [Self::ReadBytes, Self::WriteBytes, Self::Reads, Self::Writes];
        all.into_iter().find(|kind| kind.key() == key)
    }
}

fn write(file: &'static str, value: String) -> Write {
    Write {
        any_of: vec![(file, value)],
        is_optional: false,
    }
}

fn or(limit: Option<u64>, none: &str) -> String {
    limit.map_or_else(|| none.to_owned(), |limit| limit.to_string())
}

#[cfg(test)]
mod tests {
    use super::{CpuTime, IoRate, Limit, Version};

    /// What is written, `FILE=VALUE` each, one way after the other.
    fn written(limit: &Limit, version: Version) -> String {
        let writes = limit.writes(version);
        let parts: Vec<String> = writes
            .iter()
            .flat_map(|write| &write.any_of)
            .map(|(file, value)| format!("{file}={value}"))
            .collect();
        parts.join("; ")
    }

    #[test]
    fn each_limit_is_known_to_either_version() {
        let rate = |most| Limit::IoRate {
            disk: (254, 0),
            kind: IoRate::WriteBytes,
            most,
        };
        let time = |quota, burst| {
            Limit::CpuTime(CpuTime {
                quota,
                period: 40_000,
                burst,
            })
        };
        for (limit, one, two) in [
            (
                Limit::Memory(Some(4096)),
                "memory.limit_in_bytes=4096",
                "memory.max=4096",
            ),
            (
                Limit::Memory(None),
                "memory.limit_in_bytes=-1",
                "memory.max=max",
            ),
            (
                Limit::MemorySoft(Some(1)),
                "memory.soft_limit_in_bytes=1",
                "memory.high=1",
            ),
            (Limit::MemoryMin(1), "", "memory.min=1"),
            (Limit::Processes(Some(7)), "pids.max=7", "pids.max=7"),
            (Limit::Processes(None), "pids.max=max", "pids.max=max"),
            (Limit::CpuWeight(100), "cpu.shares=1024", "cpu.weight=100"),
            (Limit::CpuWeight(1), "cpu.shares=10", "cpu.weight=1"),
            (
                time(Some(10_000), 5_000),
                "cpu.cfs_burst_us=0; cpu.cfs_quota_us=-1; cpu.cfs_period_us=40000; \
                 cpu.cfs_quota_us=10000; cpu.cfs_burst_us=5000",
                "cpu.max.burst=0; cpu.max=10000 40000; cpu.max.burst=5000",
            ),
            (
                time(None, 0),
                "cpu.cfs_burst_us=0; cpu.cfs_quota_us=-1; cpu.cfs_period_us=40000; \
                 cpu.cfs_quota_us=-1",
                "cpu.max.burst=0; cpu.max=max 40000",
            ),
            (
                Limit::IoWeight(5000),
                "blkio.bfq.weight=1000; blkio.weight=1000",
                "io.weight=5000; io.bfq.weight=1000",
            ),
            (
                rate(Some(1000)),
                "blkio.throttle.write_bps_device=254:0 1000",
                "io.max=254:0 wbps=1000",
            ),
            (
                rate(None),
                "blkio.throttle.write_bps_device=254:0 0",
                "io.max=254:0 wbps=max",
            ),
            (
                Limit::Cpus("0-1".into()),
                "cpuset.cpus=0-1",
                "cpuset.cpus=0-1",
            ),
        ] {
            assert_eq!(written(&limit, Version::One), one);
            assert_eq!(written(&limit, Version::Two), two);
        }
    }
}
