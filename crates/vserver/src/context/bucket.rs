//! util-vserver's token bucket as a stock kernel can have it. Pure.
//!
//! There, a process that runs took one token each tick from its guest's bucket; each interval the
//! fill rate was put in; when the bucket was empty, the guest was held until it had `tokens-min`; and
//! `tokens-max` was all that it held. Here, with a tick of 10 ms (`getconf CLK_TCK`):
//!
//! | there | here |
//! | --- | --- |
//! | fill rate ÷ interval, of one processor | quota ÷ period |
//! | interval | period, at least 10 ms and at most 1 s |
//! | tokens-min | the quota is at least that, and the period longer in proportion: a guest that is held is held as long |
//! | tokens-max | burst: what is over of it above the quota, at most the quota |
//! | prio-bias | weight: a step is a factor of 1.25, as it is for nice(2) |
//! | fill rate ÷ interval | weight, too: 1 ÷ 4, which was the default, is 100, which is the default |
//! | idle-time, `sched_prio` without `sched_hard` | no quota: what nobody else wants is free |
//!
//! A missing value has the default that it had there: a fill rate of 1, an interval of 4.

use vhashify_config::TokenBucket;

use super::limits::{CpuTime, Limit};

/// Microseconds of a tick.
const TICK: u64 = 10_000;
/// The bounds of the kernel: microseconds of the longest period, and of the least quota.
const LONGEST_PERIOD: u64 = 1_000_000;
const LEAST_QUOTA: u64 = 1_000;

/// The limits that a bucket becomes.
#[must_use]
pub fn limits(bucket: &TokenBucket) -> Vec<Limit> {
    vec![
        Limit::CpuWeight(weight(bucket)),
        Limit::CpuTime(if bucket.is_soft {
            CpuTime::default()
        } else {
            time(bucket)
        }),
    ]
}

fn rate(bucket: &TokenBucket) -> (u64, u64) {
    let fill_rate = bucket.fill_rate.unwrap_or(1).max(1);
    let interval = bucket.interval.unwrap_or(4).max(1);
    (fill_rate.into(), interval.into())
}

fn weight(bucket: &TokenBucket) -> u64 {
    let (fill_rate, interval) = rate(bucket);
    let bias = bucket.prio_bias.unwrap_or(0).clamp(-20, 19);
    // Numbers of 32 bits are exact here, and the clamp makes the result one of 14 bits.
    #[allow(clippy::cast_precision_loss)]
    let share = 400.0 * fill_rate as f64 / interval as f64;
    let weight = (share * 1.25_f64.powi(-bias)).round().clamp(1.0, 10_000.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let weight = weight as u64;
    weight
}

fn time(bucket: &TokenBucket) -> CpuTime {
    let (fill_rate, interval) = rate(bucket);
    let tokens_min = u64::from(bucket.tokens_min.unwrap_or(0));
    // Products of two numbers of 32 bits and a tick.
    let scaled = |value: u64, by: u64, of: u64, least, most| {
        let scaled = u128::from(value) * u128::from(by) / u128::from(of);
        u64::try_from(scaled).unwrap_or(most).clamp(least, most)
    };
    let portion = fill_rate.max(tokens_min) * TICK;
    let period = scaled(portion, interval, fill_rate, TICK, LONGEST_PERIOD);
    let quota = scaled(period, fill_rate, interval, LEAST_QUOTA, LONGEST_QUOTA);
    let size = u64::from(bucket.tokens_max.unwrap_or(0)) * TICK;
    CpuTime {
        quota: Some(quota),
        period,
        burst: size.saturating_sub(quota).min(quota),
    }
}

/// More than any host has processors for, and well below what the kernel takes.
const LONGEST_QUOTA: u64 = 10_000 * LONGEST_PERIOD;

#[cfg(test)]
mod tests {
    use super::{CpuTime, Limit, TokenBucket, limits, time, weight};

    fn bucket(fill_rate: u32, interval: u32) -> TokenBucket {
        TokenBucket {
            fill_rate: Some(fill_rate),
            interval: Some(interval),
            ..TokenBucket::default()
        }
    }

    #[test]
    fn a_rate_is_a_quota_and_a_period() {
        for (fill_rate, interval, quota, period) in [
            (1, 4, 10_000, 40_000),
            (7, 32, 70_000, 320_000),
            (1, 1, 10_000, 10_000),
            (3, 1, 30_000, 10_000),
            // Longer than the kernel takes: in proportion.
            (30, 200, 150_000, 1_000_000),
            (1, 1_000_000, 1_000, 1_000_000),
            (u32::MAX, 1, 100_000_000, 10_000),
            (1, u32::MAX, 1_000, 1_000_000),
            (u32::MAX, u32::MAX, 1_000_000, 1_000_000),
        ] {
            let found = time(&bucket(fill_rate, interval));
            let quota = if fill_rate == u32::MAX && interval == 1 {
                super::LONGEST_QUOTA
            } else {
                quota
            };
            let expected = CpuTime {
                quota: Some(quota),
                period,
                burst: 0,
            };
            assert_eq!(found, expected, "{fill_rate} in {interval}");
        }
    }

    #[test]
    fn tokens_min_makes_portions_larger_and_tokens_max_lets_them_gather() {
        for (tokens_min, tokens_max, quota, period, burst) in [
            (15, 0, 150_000, 600_000, 0),
            (0, 2, 10_000, 40_000, 10_000),
            (0, 1, 10_000, 40_000, 0),
            (0, 125, 10_000, 40_000, 10_000),
            (15, 20, 150_000, 600_000, 50_000),
            // A second at most.
            (100, 125, 250_000, 1_000_000, 250_000),
            (u32::MAX, u32::MAX, 250_000, 1_000_000, 250_000),
        ] {
            let bucket = TokenBucket {
                tokens_min: Some(tokens_min),
                tokens_max: Some(tokens_max),
                ..bucket(1, 4)
            };
            let expected = CpuTime {
                quota: Some(quota),
                period,
                burst,
            };
            assert_eq!(time(&bucket), expected, "{tokens_min}, {tokens_max}");
        }
    }

    #[test]
    fn a_share_and_a_bias_are_a_weight() {
        for (fill_rate, interval, bias, expected) in [
            (1, 4, 0, 100),
            (1, 1, 0, 400),
            (1, 8, 0, 50),
            (1, 4, -1, 125),
            (1, 4, 1, 80),
            (1, 4, -20, 8_674),
            (1, 4, 19, 1),
            (1, 100_000, 0, 1),
            (1_000, 1, -20, 10_000),
        ] {
            let bucket = TokenBucket {
                prio_bias: Some(bias),
                ..bucket(fill_rate, interval)
            };
            assert_eq!(weight(&bucket), expected, "{fill_rate}/{interval}, {bias}");
        }
    }

    #[test]
    fn a_soft_bucket_is_a_weight_alone() {
        let soft = TokenBucket {
            is_soft: true,
            ..bucket(1, 8)
        };
        let expected = [Limit::CpuWeight(50), Limit::CpuTime(CpuTime::default())];
        assert_eq!(limits(&soft), expected);
    }
}
