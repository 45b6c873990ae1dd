//! `vsched`: processors' time, as util-vserver's token bucket or as a stock kernel has it.

use std::path::PathBuf;

use clap::Args;
use vhashify_config::TokenBucket;

use super::super::args::Common;
use super::{Failure, Guest, Value, limit};
use crate::context::bucket;
use crate::context::limits::{CpuTime, Limit};
use crate::lifecycle::limits::{change, find, read_bucket, write_bucket};
use crate::lifecycle::{LifecycleError, StateDirectory};

pub const EXAMPLES: &str = "\
Examples:
  vsched --xid web --fill-rate 1 --interval 4    a quarter of one processor
  vsched --xid web --prio-bias 5                 less than others get
  vsched --xid web --weight 200 --quota inf";

#[derive(Debug, Args)]
pub struct Vsched {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    guest: Guest,
    /// Read the token bucket from a directory, as sched/ has it
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// That directory may be missing
    #[arg(long, requires = "dir")]
    missingok: bool,
    /// Accepted for old scripts: a change is always at once
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    bucket: Bucket,
    #[command(flatten)]
    time: Time,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The token bucket, in ticks of 10 ms")]
struct Bucket {
    /// Tokens that are filled in each interval
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    fill_rate: Option<u32>,
    /// The interval
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    interval: Option<u32>,
    /// Tokens that there are at first: no effect, the bucket is empty
    #[arg(long, value_name = "N")]
    tokens: Option<u32>,
    /// Tokens that a held guest needs to go on
    #[arg(long, value_name = "N")]
    tokens_min: Option<u32>,
    /// Tokens that the bucket holds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tokens_max: Option<u32>,
    /// Added to its priority: -20 to 19, less is more
    #[arg(
        long,
        alias = "priority-bias",
        value_name = "N",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = clap::value_parser!(i32).range(-20..=19))]
    prio_bias: Option<i32>,
    /// What nobody else wants is free: there is a weight and no quota
    #[arg(long)]
    idle_time: bool,
    #[arg(long, hide = true)]
    fill_rate2: Option<u32>,
    #[arg(long, hide = true)]
    interval2: Option<u32>,
    #[arg(long, hide = true)]
    cpu_id: Option<u32>,
    #[arg(long = "bucket-id", hide = true)]
    single: Option<u32>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Or what a stock kernel has")]
struct Time {
    /// Its share of processors: 1 to 10000, by default 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    weight: Option<u64>,
    /// Microseconds of processors' time in a period, or inf
    #[arg(long, value_name = "N", value_parser = limit)]
    quota: Option<Value>,
    /// Microseconds of the period [default: 100000]
    #[arg(long, value_name = "N", requires = "quota")]
    #[arg(value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    period: Option<u64>,
    /// Microseconds of earlier periods that may be used later [default: 0]
    #[arg(long, value_name = "N", requires = "quota")]
    burst: Option<u64>,
}

pub fn vsched(typed: &Vsched) -> Result<(), Failure> {
    for (name, is_there) in typed.bucket.impossible() {
        if is_there {
            return Err(Failure::Impossible(format!(
                "--{name}: a stock kernel has one bucket with one rate, for all processors"
            )));
        }
    }
    let from_directory = match &typed.dir {
        Some(directory) if directory.is_dir() => {
            Some(TokenBucket::read(directory).map_err(LifecycleError::from)?)
        }
        Some(directory) if !typed.missingok => {
            let line = format!(
                "{} is no directory; name one with --dir",
                directory.display()
            );
            return Err(Failure::Usage(line));
        }
        _ => None,
    };
    let has_bucket = typed.bucket.is_given() || from_directory.is_some();
    let is_idle = !has_bucket && typed.dir.is_none() && typed.time.is_empty();
    if is_idle && !typed.force && typed.bucket.tokens.is_none() {
        let line = "nothing is to be changed; see --help for what can be";
        return Err(Failure::Usage(line.to_owned()));
    }
    if typed.bucket.tokens.is_some() {
        tracing::warn!("--tokens has no effect: the bucket of a stock kernel is empty at first");
    }
    let (state, _) = find(&typed.common.state_dir, &typed.guest.xid)?;
    let mut limits = Vec::new();
    let bucket = has_bucket.then(|| typed.bucket.over(from_directory, &state));
    limits.extend(bucket.iter().flat_map(bucket::limits));
    limits.extend(typed.time.limits()?);
    change(&state, &limits, &[])?;
    if let Some(bucket) = bucket {
        write_bucket(&state, &bucket)?;
    }
    Ok(())
}

impl Bucket {
    fn is_given(&self) -> bool {
        self.fill_rate.is_some()
            || self.interval.is_some()
            || self.tokens_min.is_some()
            || self.tokens_max.is_some()
            || self.prio_bias.is_some()
            || self.idle_time
    }

    fn impossible(&self) -> [(&'static str, bool); 4] {
        [
            ("fill-rate2", self.fill_rate2.is_some()),
            ("interval2", self.interval2.is_some()),
            ("cpu-id", self.cpu_id.is_some()),
            ("bucket-id", self.single.is_some()),
        ]
    }

    /// Each value from the arguments, else from the directory, else from the guest's last bucket. As with the old tool,
    /// each change says anew whether idle time is free.
    fn over(&self, from_directory: Option<TokenBucket>, state: &StateDirectory) -> TokenBucket {
        let last = read_bucket(state).unwrap_or_default();
        let read = from_directory.unwrap_or_default();
        TokenBucket {
            fill_rate: self.fill_rate.or(read.fill_rate).or(last.fill_rate),
            interval: self.interval.or(read.interval).or(last.interval),
            tokens_min: self.tokens_min.or(read.tokens_min).or(last.tokens_min),
            tokens_max: self.tokens_max.or(read.tokens_max).or(last.tokens_max),
            prio_bias: self.prio_bias.or(read.prio_bias).or(last.prio_bias),
            is_soft: self.idle_time || read.is_soft,
        }
    }
}

impl Time {
    fn is_empty(&self) -> bool {
        self.weight.is_none() && self.quota.is_none()
    }

    fn limits(&self) -> Result<Vec<Limit>, Failure> {
        let mut limits = Vec::new();
        limits.extend(self.weight.map(Limit::CpuWeight));
        if let Some(Value(quota)) = self.quota {
            if quota.is_some_and(|quota| quota < 1_000) {
                let line = "--quota: it is 1000 microseconds at least";
                return Err(Failure::Usage(line.to_owned()));
            }
            let burst = self.burst.unwrap_or(0);
            if quota.is_none_or(|quota| burst > quota) && burst > 0 {
                let line = "--burst: it may not be more than the quota";
                return Err(Failure::Usage(line.to_owned()));
            }
            limits.push(Limit::CpuTime(CpuTime {
                quota,
                period: self.period.unwrap_or(CpuTime::default().period),
                burst,
            }));
        }
        Ok(limits)
    }
}
