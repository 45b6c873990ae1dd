//! How many workers a run has, and how many descriptors each of them may keep open.
//!
//! With a cold page cache a worker mostly waits for the disk, and two workers leave a disk idle that answers
//! several requests at once. So a run has more workers than processors, and gives each a budget of
//! descriptors, so that all of them together stay below the limit of open files (`RLIMIT_NOFILE`).

/// Workers for each processor. Eight on two processors read a cold disk in three quarters of the time that
/// two take, sixteen no faster; from a warm cache it makes no difference.
const PER_PROCESSOR: usize = 4;

/// More workers than this are only for hosts with more processors.
const MOST: usize = 32;

/// The part of the limit that no worker gets: for descriptors of guests, of the index, and of groups that are
/// linked at once however many they are.
const RESERVED_PART: u64 = 4;

/// What one worker may keep open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdBudget {
    /// Descriptors of transactions that wait for their end.
    pub waiting: usize,
    /// Files of one group, under their leases, until it has been planned. Further ones are given back
    /// and opened again when the plan names them.
    pub group: usize,
    /// Directories, for the next file in them.
    pub directories: usize,
    /// Files whose replacement was undone, before their guests are walked once more. Each holds two descriptors.
    pub undone: usize,
}

impl FdBudget {
    /// More of these would save nothing.
    const FULL: Self = Self {
        waiting: 2000,
        group: 256,
        directories: 512,
        undone: 128,
    };

    /// Descriptors in all.
    #[must_use]
    pub const fn descriptors(&self) -> usize {
        self.waiting + self.group + self.directories + 2 * self.undone
    }

    /// The part of the full budget that `descriptors` suffice for; a few are the least of each.
    fn within(descriptors: usize) -> Self {
        const LEAST: usize = 4;
        let full = Self::FULL.descriptors();
        let part = |of: usize| (of * descriptors.min(full) / full).max(LEAST);
        Self {
            waiting: part(Self::FULL.waiting),
            group: part(Self::FULL.group),
            directories: part(Self::FULL.directories),
            undone: part(Self::FULL.undone),
        }
    }
}

/// The workers of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// Count of them.
    pub count: usize,
    /// What each of them may keep open.
    pub budget: FdBudget,
}

impl Workers {
    /// The count that a host with so many processors is best served by.
    #[must_use]
    pub fn for_processors(processors: usize) -> usize {
        processors.max(MOST.min(processors.saturating_mul(PER_PROCESSOR)))
    }

    /// As many as `wanted`, or fewer where the `limit` of open files does not suffice; without one where
    /// there is no limit.
    #[must_use]
    pub fn new(wanted: usize, limit: Option<u64>) -> Self {
        /// With fewer than this a worker would wait for its own files more than for the disk.
        const WORTH_A_WORKER: usize = 128;
        let limit = limit.unwrap_or(u64::MAX);
        let measured_out = usize::try_from(limit - limit / RESERVED_PART).unwrap_or(usize::MAX);
        let count = wanted.min(measured_out / WORTH_A_WORKER).max(1);
        Self {
            count,
            budget: FdBudget::within(measured_out / count),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn workers_keep_less_open_than_the_limit(wanted in 1..2000_usize, limit in 64..2_000_000_u64) {
            let Workers { count, budget } = Workers::new(wanted, Some(limit));
            prop_assert!((1..=wanted).contains(&count));
            prop_assert!((count * budget.descriptors()) as u64 <= limit - limit / 8);
        }
    }

    #[test]
    fn a_usual_limit_is_enough_for_all_that_helps() {
        let usual = Workers::new(Workers::for_processors(2), Some(524_288));
        assert_eq!((usual.count, usual.budget), (8, FdBudget::FULL));
        assert_eq!(Workers::new(32, None).budget, FdBudget::FULL);
        assert_eq!([1, 2, 16, 64].map(Workers::for_processors), [4, 8, 32, 64]);
    }
}
