//! Tells by a pidfd whether a process has ended.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether the process of a pidfd has ended.
#[must_use]
pub fn has_ended(process: impl AsFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut waited = [PollFd::new(&process, PollFlags::IN)];
    poll(&mut waited, Some(&now)) != Ok(0)
}
