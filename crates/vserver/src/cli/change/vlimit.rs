//! `vlimit`: memory, processes and disks of a guest, and the resource limits of each process.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use clap::Args;
use thiserror::Error;
use vhashify_config::{limits_in, parse_limit};
use vhashify_sys::call_error::reason;

use super::super::args::Common;
use super::super::output::say;
use super::{Failure, Guest, Value, limit};
use crate::context::cgroup;
use crate::context::limits::{IoRate, Limit};
use crate::lifecycle::limits::{Part, ProcessLimit, RESOURCES, change, find, limit_of_process};

/// Bytes of a page, which `--rss` counts.
const PAGE: u64 = 4096;

pub const EXAMPLES: &str = "\
Examples:
  vlimit --xid web -a                       show them
  vlimit --xid web --memory 512M --nproc 200
  vlimit --xid web -S --nofile 1024         the soft limit of each process
  vlimit --xid web --io-max /dev/vda:wbps=10M,riops=500";

#[derive(Debug, Args)]
pub struct Vlimit {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    guest: Guest,
    /// Show all limits, after the change if there is one
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    parts: Parts,
    /// Read limits from the files of a directory, as rlimits/ has them
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// That directory may be missing
    #[arg(long, requires = "dir")]
    missingok: bool,
    #[command(flatten)]
    of_guest: OfGuest,
    #[command(flatten)]
    of_processes: OfProcesses,
    #[command(flatten)]
    impossible: Impossible,
}

/// Which part of a limit is meant. Without any, a process's soft and hard one, and a guest's hard one.
#[derive(Debug, Args)]
struct Parts {
    /// Change the least that the guest keeps (--rss, --memory)
    #[arg(short = 'M')]
    least: bool,
    /// Change the soft limit
    #[arg(short = 'S')]
    soft: bool,
    /// Change the hard limit [without any of these: soft and hard]
    #[arg(short = 'H')]
    hard: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of the whole guest")]
struct OfGuest {
    /// Memory, page cache included, in bytes
    #[arg(long, value_name = "N", value_parser = limit)]
    memory: Option<Value>,
    /// The same, in pages of 4096 bytes
    #[arg(long, value_name = "N", value_parser = limit, conflicts_with = "memory")]
    rss: Option<Value>,
    /// Processes and threads
    #[arg(long, value_name = "N", value_parser = limit)]
    nproc: Option<Value>,
    /// Its share of disks: 1 to 10000, by default 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    io_weight: Option<u64>,
    /// The most a second of a disk: DISK:rbps=N,wbps=N,riops=N,wiops=N
    #[arg(long, value_name = "SPEC")]
    io_max: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of each of its processes, as setrlimit(2) has them")]
struct OfProcesses {
    /// Address space, in bytes
    #[arg(long = "as", value_name = "N", value_parser = limit)]
    address_space: Option<Value>,
    /// Size of a core file, in bytes
    #[arg(long, value_name = "N", value_parser = limit)]
    core: Option<Value>,
    /// Processors' time, in seconds
    #[arg(long, value_name = "N", value_parser = limit)]
    cpu: Option<Value>,
    /// Data segment, in bytes
    #[arg(long, value_name = "N", value_parser = limit)]
    data: Option<Value>,
    /// Size of a file that it writes, in bytes
    #[arg(long, value_name = "N", value_parser = limit)]
    fsize: Option<Value>,
    /// Locks of files
    #[arg(long, value_name = "N", value_parser = limit)]
    locks: Option<Value>,
    /// Locked memory, in bytes
    #[arg(long, value_name = "N", value_parser = limit)]
    memlock: Option<Value>,
    /// Message queues, in bytes
    #[arg(long, value_name = "N", value_parser = limit)]
    msgqueue: Option<Value>,
    /// How far it may raise its priority: 20 minus the nice value
    #[arg(long, value_name = "N", value_parser = limit)]
    nice: Option<Value>,
    /// Open files
    #[arg(long, value_name = "N", value_parser = limit)]
    nofile: Option<Value>,
    /// Real-time priority
    #[arg(long, value_name = "N", value_parser = limit)]
    rtprio: Option<Value>,
    /// Real-time without a pause, in microseconds
    #[arg(long, value_name = "N", value_parser = limit)]
    rttime: Option<Value>,
    /// Signals that wait
    #[arg(long, value_name = "N", value_parser = limit)]
    sigpending: Option<Value>,
    /// Stack, in bytes
    #[arg(long, value_name = "N", value_parser = limit)]
    stack: Option<Value>,
}

/// What only the patched kernel counted.
#[derive(Debug, Args)]
struct Impossible {
    #[arg(long, hide = true, value_parser = limit)]
    nsock: Option<Value>,
    #[arg(long, hide = true, value_parser = limit)]
    openfd: Option<Value>,
    #[arg(long, hide = true, value_parser = limit)]
    anon: Option<Value>,
    #[arg(long, hide = true, value_parser = limit)]
    shmem: Option<Value>,
    #[arg(long, hide = true, value_parser = limit)]
    semary: Option<Value>,
    #[arg(long, hide = true, value_parser = limit)]
    nsems: Option<Value>,
    #[arg(long, hide = true, value_parser = limit)]
    dentry: Option<Value>,
}

pub fn vlimit(typed: &Vlimit) -> Result<(), Failure> {
    let (limits, of_processes) = typed.wanted()?;
    let is_idle = limits.is_empty() && of_processes.is_empty() && typed.dir.is_none();
    if is_idle && !typed.all {
        let line = "no limit is named; name one, or -a to show all";
        return Err(Failure::Usage(line.to_owned()));
    }
    let (state, running) = find(&typed.common.state_dir, &typed.guest.xid)?;
    change(&state, &limits, &of_processes)?;
    if typed.all {
        show_limits(running.context, running.init.map_or(0, |init| init.pid));
    }
    Ok(())
}

impl Vlimit {
    /// The limits that the arguments ask for.
    fn wanted(&self) -> Result<(Vec<Limit>, Vec<ProcessLimit>), Failure> {
        for (name, is_there) in self.impossible.given() {
            if is_there {
                return Err(Failure::Impossible(format!(
                    "--{name}: a stock kernel does not count that by guest"
                )));
            }
        }
        let mut limits = self.of_guest.limits(&self.parts)?;
        let mut of_processes = Vec::new();
        let given = self.of_processes.given();
        for (resource, value) in RESOURCES.iter().zip(given) {
            let Some(Value(value)) = value else { continue };
            if self.parts.least {
                return Err(Failure::Impossible(format!(
                    "--{}: a process has no least limit, only a soft and a hard one",
                    resource.name
                )));
            }
            let part = match (self.parts.soft, self.parts.hard) {
                (true, false) => Part::Soft,
                (false, true) => Part::Hard,
                _ => Part::Both,
            };
            of_processes.push(ProcessLimit {
                resource,
                part,
                value,
            });
        }
        // util-vserver's letters were for the next limit alone.
        let letters = [self.parts.least, self.parts.soft, self.parts.hard];
        let count = limits.len() + of_processes.len();
        if letters.iter().filter(|given| **given).count() > 1
            && count > 1
            && !self.memory_is_alone()
        {
            return Err(Failure::Usage(
                "more than one of -M, -S and -H, and more than one limit; change them one by one"
                    .to_owned(),
            ));
        }
        if let Some(directory) = &self.dir {
            if directory.is_dir() {
                let (mut more, of_guest) = limits_in(directory)?;
                limits.extend(crate::context::configured::limits(&of_guest));
                more.retain(|limit| {
                    of_processes
                        .iter()
                        .all(|own| own.resource.name != limit.resource)
                });
                for limit in more {
                    let named = RESOURCES.iter().find(|known| known.name == limit.resource);
                    let Some(resource) = named else { continue };
                    // The hard one first, so that the soft one is never above it.
                    for (part, value) in [(Part::Hard, limit.hard), (Part::Soft, limit.soft)] {
                        of_processes.push(ProcessLimit {
                            resource,
                            part,
                            value,
                        });
                    }
                }
            } else if !self.missingok {
                let line = format!(
                    "{} is no directory; name one with --dir",
                    directory.display()
                );
                return Err(Failure::Usage(line));
            }
        }
        Ok((limits, of_processes))
    }

    /// Whether memory is the only limit in the arguments, so that several parts of it may be changed.
    fn memory_is_alone(&self) -> bool {
        let memory = self.of_guest.rss.is_some() || self.of_guest.memory.is_some();
        let others = self.of_guest.nproc.is_some()
            || self.of_guest.io_weight.is_some()
            || !self.of_guest.io_max.is_empty()
            || self.of_processes.given().iter().any(Option::is_some);
        memory && !others
    }
}

impl OfGuest {
    fn limits(&self, parts: &Parts) -> Result<Vec<Limit>, Failure> {
        let mut limits = Vec::new();
        let in_bytes = |Value(pages): Value| match pages.map(|pages| pages.checked_mul(PAGE)) {
            None => Ok(None),
            Some(Some(bytes)) => Ok(Some(bytes)),
            Some(None) => Err(Failure::Usage(
                "--rss: that is more pages than there can be; write inf".to_owned(),
            )),
        };
        let memory = self.rss.map(in_bytes).transpose()?;
        if let Some(memory) = self.memory.map(|Value(bytes)| bytes).or(memory) {
            if parts.least {
                limits.push(Limit::MemoryMin(memory.unwrap_or(0)));
            }
            if parts.soft {
                limits.push(Limit::MemorySoft(memory));
            }
            // As in util-vserver, the hard one is meant without a letter.
            if parts.hard || !(parts.least || parts.soft) {
                limits.push(Limit::Memory(memory));
            }
        }
        if let Some(Value(processes)) = self.nproc {
            if parts.least || (parts.soft && !parts.hard) {
                return Err(Failure::Impossible(
                    "--nproc: processes have a hard limit alone".to_owned(),
                ));
            }
            limits.push(Limit::Processes(processes));
        }
        limits.extend(self.io_weight.map(Limit::IoWeight));
        for text in &self.io_max {
            limits.extend(io_rates(text)?);
        }
        Ok(limits)
    }
}

impl OfProcesses {
    /// In the order of [`RESOURCES`].
    fn given(&self) -> [Option<Value>; RESOURCES.len()] {
        [
            self.address_space,
            self.core,
            self.cpu,
            self.data,
            self.fsize,
            self.locks,
            self.memlock,
            self.msgqueue,
            self.nice,
            self.nofile,
            self.rtprio,
            self.rttime,
            self.sigpending,
            self.stack,
        ]
    }
}

impl Impossible {
    fn given(&self) -> [(&'static str, bool); 7] {
        [
            ("nsock", self.nsock.is_some()),
            ("openfd", self.openfd.is_some()),
            ("anon", self.anon.is_some()),
            ("shmem", self.shmem.is_some()),
            ("semary", self.semary.is_some()),
            ("nsems", self.nsems.is_some()),
            ("dentry", self.dentry.is_some()),
        ]
    }
}

/// `DISK:rbps=N,…`.
fn io_rates(text: &str) -> Result<Vec<Limit>, Failure> {
    let wrong = |reason: &str| Failure::Usage(format!("--io-max {text:?}: {reason}"));
    let form = "write DISK:rbps=N,wbps=N,riops=N,wiops=N";
    let (disk, rates) = text.split_once(':').ok_or_else(|| wrong(form))?;
    let mut parsed = Vec::new();
    for rate in rates.split(',') {
        let (key, value) = rate.split_once('=').ok_or_else(|| wrong(form))?;
        let kind = IoRate::of_key(key).ok_or_else(|| wrong(form))?;
        let Some(most) = parse_limit(value).filter(|most| *most != Some(0)) else {
            return Err(wrong("each rate is a number from 1 on, or inf"));
        };
        parsed.push((kind, most));
    }
    let disk = disk_of(Path::new(disk)).map_err(|error| wrong(&error.to_string()))?;
    let limits = parsed
        .into_iter()
        .map(|(kind, most)| Limit::IoRate { disk, kind, most });
    Ok(limits.collect())
}

/// Why a path names no disk.
#[derive(Debug, Error)]
enum DiskError {
    #[error("{}", reason(.0))]
    Stat(#[source] std::io::Error),
    #[error("it is no disk; name one of /dev")]
    NotDisk,
    #[error("the disk of that partition is not known")]
    UnknownDisk,
}

/// Major and minor number of a disk, or of the disk that a partition is on: the kernel counts whole disks.
fn disk_of(path: &Path) -> Result<(u32, u32), DiskError> {
    let found = std::fs::metadata(path).map_err(DiskError::Stat)?;
    if !found.file_type().is_block_device() {
        return Err(DiskError::NotDisk);
    }
    let number = found.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let place = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if !place.join("partition").exists() {
        return Ok((major, minor));
    }
    let text = std::fs::read_to_string(place.join("../dev")).unwrap_or_default();
    let whole = text
        .trim()
        .split_once(':')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    whole.ok_or(DiskError::UnknownDisk)
}

fn show_limits(context: u32, init: i32) {
    let or_none = |limit: Option<u64>| limit.map_or("inf".to_owned(), |limit| limit.to_string());
    let line =
        |name: &str, soft: &str, hard: &str| say(&format!("{name:<12} {soft:>20} {hard:>20}"));
    line("RESOURCE", "SOFT", "HARD");
    // Version 1 writes "none" as the largest number of pages that there can be.
    let text = |names: &[&str]| {
        let text = cgroup::text(context, names)?;
        let first = text.lines().next().unwrap_or_default().trim();
        let is_none = first == "max" || first.parse().is_ok_and(|bytes: u64| bytes > u64::MAX / 4);
        Some(if is_none {
            "inf".to_owned()
        } else {
            first.to_owned()
        })
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    line(
        "memory",
        &or_dash(text(&["memory.soft_limit_in_bytes", "memory.high"])),
        &or_dash(text(&["memory.limit_in_bytes", "memory.max"])),
    );
    line("nproc", "-", &or_dash(text(&["pids.max"])));
    for resource in &RESOURCES {
        if let Some((soft, hard)) = limit_of_process(init, resource) {
            line(resource.name, &or_none(soft), &or_none(hard));
        }
    }
}
