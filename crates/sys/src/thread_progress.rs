//! Whether a thread gets on, by what the kernel calls `taskstats` (`Documentation/accounting/`): how often ticks have met
//! it in its own program, and how much it has read and written.
//!
//! `/proc/PID/stat` says something else: the kernel divides the whole time between user and system by the proportion of
//! its ticks (`cputime_adjust`, `kernel/sched/cputime.c`), so that the user's part grows also in a thread that has not
//! left the kernel.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// Asks the kernel how far threads are.
#[derive(Debug)]
pub struct ThreadProgress {
    socket: OwnedFd,
    /// The number of `taskstats` among the families of generic netlink.
    family: u16,
}

/// Generic netlink's own family, and `CTRL_CMD_GETFAMILY` with its attributes (include/uapi/linux/genetlink.h).
mod control {
    pub const FAMILY: u16 = 16;
    pub const GET_FAMILY: u8 = 3;
    pub const FAMILY_ID: u16 = 1;
    pub const FAMILY_NAME: u16 = 2;
}

/// How far a thread was. When it has another one later, then it was meanwhile in its own program, or in a call that reads
/// or writes (`vfs_read`, `vfs_write`, `fs/read_write.c`); and never when it was all the time in one that opens a file or
/// changes its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Microseconds for which ticks have met it in its program.
    pub user_time: u64,
    /// Bytes that it has read and written, rounded down to 1,024.
    pub bytes: [u64; 2],
}

/// `TASKSTATS_CMD_GET`, its attributes, and where `ac_utime`, `read_char` and `write_char` lie
/// (include/uapi/linux/taskstats.h): no version of the structure has moved them.
mod taskstats {
    pub const GET: u8 = 1;
    pub const OF_THREAD: u16 = 1;
    pub const STATS: u16 = 3;
    pub const THREAD_AND_STATS: u16 = 4;
    pub const USER_TIME: usize = 152;
    pub const BYTES_READ: usize = 216;
    pub const BYTES_WRITTEN: usize = 224;
}

impl ThreadProgress {
    /// # Errors
    /// What `socket(2)` lists; `ENOENT` where the kernel has none (`CONFIG_TASKSTATS`), or not in this network
    /// namespace.
    pub fn new() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            flags,
            Some(netlink::GENERIC),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        let mut asking = Self {
            socket,
            family: control::FAMILY,
        };
        let answer = asking.ask(control::GET_FAMILY, control::FAMILY_NAME, b"TASKSTATS\0")?;
        let family = attribute(&answer, control::FAMILY_ID).and_then(|id| id.try_into().ok());
        asking.family = u16::from_ne_bytes(family.ok_or(Errno::NOENT)?);
        Ok(asking)
    }

    /// # Errors
    /// `ESRCH` if the thread is gone; `EPERM` without `CAP_NET_ADMIN`.
    pub fn of(&self, thread: i32) -> Result<Progress, Errno> {
        let thread = u32::try_from(thread).map_err(|_| Errno::SRCH)?;
        let answer = self.ask(taskstats::GET, taskstats::OF_THREAD, &thread.to_ne_bytes())?;
        let both = attribute(&answer, taskstats::THREAD_AND_STATS);
        let stats = both.and_then(|both| attribute(both, taskstats::STATS));
        let number = |at: usize| {
            let bytes = stats.and_then(|stats| stats.get(at..at + 8)?.try_into().ok());
            bytes.map(u64::from_ne_bytes).ok_or(Errno::IO)
        };
        Ok(Progress {
            user_time: number(taskstats::USER_TIME)?,
            bytes: [
                number(taskstats::BYTES_READ)?,
                number(taskstats::BYTES_WRITTEN)?,
            ],
        })
    }

    /// Sends a command with one attribute. Returns the attributes of the answer.
    fn ask(&self, command: u8, attribute: u16, value: &[u8]) -> Result<Vec<u8>, Errno> {
        /// `NLM_F_REQUEST`, `NLMSG_ERROR` (include/uapi/linux/netlink.h); the headers of netlink and of generic netlink.
        const REQUEST: u16 = 1;
        const ERROR: u16 = 2;
        const HEADERS: usize = 20;
        let padded = value.len().next_multiple_of(4);
        let length = HEADERS + 4 + padded;
        let mut message = Vec::with_capacity(length);
        message.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        message.extend(self.family.to_ne_bytes());
        message.extend(REQUEST.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(
            u16::try_from(4 + value.len())
                .unwrap_or(u16::MAX)
                .to_ne_bytes(),
        );
        message.extend(attribute.to_ne_bytes());
        message.extend(value);
        message.resize(length, 0);
        send(&self.socket, &message, SendFlags::empty())?;
        let mut answer = vec![0; 4096];
        // The kernel answers within the call that asks.
        let (length, _) = recv(&self.socket, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
        answer.truncate(length);
        let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok());
        if kind.map(u16::from_ne_bytes) == Some(ERROR) {
            let code = answer.get(16..20).and_then(|code| code.try_into().ok());
            let code = code.map_or(Errno::IO.raw_os_error(), |code| -i32::from_ne_bytes(code));
            return Err(Errno::from_raw_os_error(code));
        }
        answer.drain(..HEADERS.min(answer.len()));
        Ok(answer)
    }
}

/// The value of an attribute among `attributes` (`struct nlattr`).
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        // The highest bits are flags.
        if kind & 0x3fff == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.next_multiple_of(4).max(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use rustix::io::Errno;

    use super::{ThreadProgress, attribute};

    #[test]
    fn an_attribute_is_found_behind_others_and_none_in_rubbish() {
        let list = [6, 0, 1, 0, 7, 8, 0, 0, 5, 0, 3, 0x80, 9, 0, 0, 0];
        assert_eq!(attribute(&list, 1), Some([7, 8].as_slice()));
        assert_eq!(attribute(&list, 3), Some([9].as_slice()));
        assert_eq!(attribute(&list, 2), None);
        assert_eq!(attribute(&[0, 0, 5, 0, 0, 0], 1), None);
        assert_eq!(attribute(&[200, 0, 1, 0], 1), None);
    }

    #[test]
    fn who_runs_gets_on_and_who_waits_does_not() {
        let progress = ThreadProgress::new().unwrap();
        let start = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let of = |child: &Child| progress.of(i32::try_from(child.id()).unwrap());
        let looping = start("sh", &["-c", "while :; do :; done"]);
        // Hardly ever in its own program.
        let copying = start("dd", &["if=/dev/zero", "of=/dev/null", "bs=1M"]);
        let waiting = start("sleep", &["100"]);
        std::thread::sleep(Duration::from_millis(50));
        let before = [of(&looping), of(&copying), of(&waiting)].map(Result::unwrap);
        let end = Instant::now() + Duration::from_secs(20);
        let has_time = || of(&looping).unwrap().user_time > before[0].user_time;
        let has_bytes = || {
            let now = of(&copying).unwrap().bytes;
            now[0] > before[1].bytes[0] && now[1] > before[1].bytes[1]
        };
        while !has_time() || !has_bytes() {
            assert!(Instant::now() < end, "{before:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(of(&waiting).unwrap(), before[2]);
        for mut child in [looping, copying, waiting] {
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(of(&child), Err(Errno::SRCH));
        }
    }
}
