//! A process by a name that no later one can have: its number and when it began.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::procfs::{Stat, stat};

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number on the host.
    pub pid: i32,
    /// When it began, in ticks since the boot.
    pub began: u64,
}

impl Process {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self::find(pid).unwrap_or(Self { pid, began: 0 })
    }

    /// The process that has the number now; `None` where none has, or where it is a zombie.
    #[must_use]
    pub fn find(pid: i32) -> Option<Self> {
        let Stat { state, began, .. } = stat(pid).ok()?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, began })
    }

    /// Whether it still runs. A zombie does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    /// A handle on it, or `None` when it has ended.
    #[must_use]
    pub fn open(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.pid)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Another process may have got the number before the handle was opened; none gets it after.
        self.is_alive().then_some(handle)
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&self, number: i32) {
        if let Some(handle) = self.open() {
            // Fails only if the process has ended.
            drop(send_signal(handle, number));
        }
    }

    /// Waits until it ends, at most for `time`. False where it has not ended by then.
    #[must_use]
    pub fn wait(&self, time: Duration) -> bool {
        let Some(handle) = self.open() else {
            return true;
        };
        let mut waited = [PollFd::new(&handle, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let begun = std::time::Instant::now();
        while let Err(rustix::io::Errno::INTR) = poll(&mut waited, Some(&limit)) {
            if begun.elapsed() >= time {
                break;
            }
        }
        !self.is_alive()
    }
}

/// Sends any signal, the real-time ones too, to the process of a pidfd.
///
/// # Errors
/// The call's; `ESRCH` when it has ended.
pub fn send_signal(process: impl AsFd, number: i32) -> io::Result<()> {
    // SAFETY: `pidfd_send_signal` reads the siginfo that its third argument points to: that may be null, and is. The
    // descriptor is borrowed for the whole call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_fd().as_raw_fd(),
            number,
            std::ptr::null::<libc::siginfo_t>(),
            0u32,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::Process;

    #[test]
    fn a_process_is_known_by_its_number_and_beginning() {
        let this = Process::this();
        assert!(this.is_alive());
        let other = Process {
            began: this.began + 1,
            ..this
        };
        assert!(!other.is_alive());
    }
}
