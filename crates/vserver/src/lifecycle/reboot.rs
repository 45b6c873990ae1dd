//! Starts a guest again that has rebooted itself: at once, or more and more slowly if it does so as soon as it runs.
//!
//! ```text
//! the guest reboots ─▶ its monitor notes that, tidies up, waits ─▶ vserver NAME start --rebooted
//!                        NAME/reboot.json: who waits                  takes the lock; starts only if that still stands
//! ```
//!
//! `stop` and `start` of an administrator take it away, under the lock.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vhashify_config::running::Running;
use vhashify_sys::pidfd::Process;

use super::LifecycleError;
use super::state::{StateDirectory, now};

/// The name in the state directory.
const NAME: &str = "reboot.json";
/// A guest that lives for so many seconds is started again at once.
const LONG: u64 = 60;
/// The longest pause, in seconds.
const LONGEST_PAUSE: u64 = 60;

/// A guest's reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reboot {
    /// How often in a row it rebooted before it had lived for long.
    count: u32,
    /// When it is started again, in seconds since 1970.
    at: u64,
    /// The monitor that waits; none once the start has begun.
    waiter: Option<Process>,
}

impl Reboot {
    /// The seconds until it is started again.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.at.saturating_sub(now())
    }
}

/// Notes that the guest has rebooted, and that this process waits to start it again.
pub(super) fn note(state: &StateDirectory, running: &Running) -> Reboot {
    let before = read(state).map_or(0, |reboot| reboot.count);
    let count = if now().saturating_sub(running.since) < LONG {
        before.saturating_add(1)
    } else {
        0
    };
    let reboot = Reboot {
        count,
        at: now() + pause(count),
        waiter: Some(Process::this()),
    };
    if let Err(error) = state.write(NAME, &reboot) {
        tracing::error!("it is not started again: {error}");
    }
    reboot
}

/// The seconds before a start after so many quick reboots.
fn pause(count: u32) -> u64 {
    match count {
        0 => 0,
        count => 1_u64
            .checked_shl(count - 1)
            .map_or(LONGEST_PAUSE, |pause| pause.min(LONGEST_PAUSE)),
    }
}

/// Waits until it is time. False if somebody has started or stopped the guest meanwhile.
pub(super) fn wait(state: &StateDirectory, reboot: Reboot) -> bool {
    while read(state) == Some(reboot) {
        if reboot.left() == 0 {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

/// Whether a monitor waits to start the guest again. The caller holds the lock, and starts it if so.
pub(super) fn claim(state: &StateDirectory) -> Result<bool, LifecycleError> {
    let Some(reboot) = waiting(state) else {
        return Ok(false);
    };
    let begun = Reboot {
        waiter: None,
        ..reboot
    };
    state.write(NAME, &begun)?;
    Ok(true)
}

/// Forgets all reboots. The caller holds the lock. True if a monitor was waiting to start the guest again.
pub(super) fn forget(state: &StateDirectory) -> bool {
    let was_waiting = waiting(state).is_some();
    drop(fs::remove_file(state.at(NAME)));
    was_waiting
}

/// Whether the guest has rebooted since an administrator started it: then a command that holds the lock may be its start.
pub(super) fn may_be_starting(state: &StateDirectory) -> bool {
    read(state).is_some()
}

/// The reboot after which the guest waits to be started again.
#[must_use]
pub fn waiting(state: &StateDirectory) -> Option<Reboot> {
    read(state).filter(|reboot| reboot.waiter.is_some_and(|waiter| waiter.is_alive()))
}

fn read(state: &StateDirectory) -> Option<Reboot> {
    state.read(NAME).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::pause;

    #[test]
    fn each_quick_reboot_doubles_the_pause_up_to_a_minute() {
        let pauses: Vec<u64> = (0..9).map(pause).collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), 60);
    }
}
