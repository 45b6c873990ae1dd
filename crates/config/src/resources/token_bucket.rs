//! `sched` and `schedule`: the token bucket.

use std::fs;
use std::path::Path;

use thiserror::Error;
use vhashify_sys::shown::Shown;

use super::super::ConfigError;
use super::super::values::{arguments, invalid, number};

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
    /// The guest has a share and no quota, so that idle time is free: `idle-time`, or the flag
    /// `sched_prio` without `sched_hard`.
    pub is_soft: bool,
}

/// `sched/*`, else the lines of `schedule`; `None` where there is neither.
pub fn read(directory: &Path) -> Result<Option<TokenBucket>, ConfigError> {
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
        .map_err(|error| invalid(&schedule, &error.to_string()))
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

/// What is wrong with the lines of `schedule`.
#[derive(Debug, Error)]
enum ScheduleError {
    #[error(
        "it has fewer than five lines: fill rate, interval, tokens, tokens-min, tokens-max; or write \
         sched/fill-rate and the like instead"
    )]
    TooFewLines,
    #[error("{text:?} is not a number from {least} on")]
    NotNumber { text: String, least: u32 },
}

/// Fill rate, interval, tokens, tokens-min, tokens-max, and a line that was never used.
fn of_lines(lines: &[&str]) -> Result<TokenBucket, ScheduleError> {
    let [fill_rate, interval, _, tokens_min, tokens_max, ..] = lines else {
        return Err(ScheduleError::TooFewLines);
    };
    let count = |text: &str, least: u32| {
        let parsed = text.parse().ok().filter(|count| *count >= least);
        parsed.ok_or_else(|| ScheduleError::NotNumber {
            text: text.to_owned(),
            least,
        })
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

#[cfg(test)]
mod tests {
    use super::of_lines;

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
}
