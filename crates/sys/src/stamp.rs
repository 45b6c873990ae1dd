//! What `statx(2)` says of an inode, as plain data.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp, Timespec, Timestamps, UTIME_OMIT};
use rustix::path::Arg;

/// A point in time as inodes keep it: seconds since 1970 (negative before it) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl From<StatxTimestamp> for Timestamp {
    fn from(time: StatxTimestamp) -> Self {
        Self {
            seconds: time.tv_sec,
            nanoseconds: time.tv_nsec,
        }
    }
}

impl From<Timestamp> for Timespec {
    fn from(time: Timestamp) -> Self {
        Self {
            tv_sec: time.seconds,
            tv_nsec: time.nanoseconds.into(),
        }
    }
}

impl Timestamp {
    /// No inode has this time.
    pub const OF_NONE: Self = Self {
        seconds: i64::MIN,
        nanoseconds: 0,
    };

    /// Whether whatever changes an inode at `time` or later is sure to give it a later ctime than this one.
    ///
    /// Filesystems keep times in nanoseconds (of a clock that ticks every 1 to 10 ms) or in whole seconds: ext2, and
    /// ext4 for each inode without room for more, as those of 128 bytes. A time without nanoseconds is taken for one of
    /// the second kind: any change within that second has left it, and the next one may leave it again.
    #[must_use]
    pub fn is_over_at(self, time: Self) -> bool {
        if self.is_in_seconds() {
            self.seconds < time.seconds
        } else {
            self < time
        }
    }

    /// Whether no change of an inode since `from` can have given it this ctime: it is older, or lies in the future
    /// because the clock was ahead once.
    #[must_use]
    pub fn is_outside_since(self, from: Self) -> bool {
        self.is_over_at(from) || self > Self::now_finely()
    }

    /// Whether the filesystem may keep this time in whole seconds.
    #[must_use]
    pub fn is_in_seconds(self) -> bool {
        self.nanoseconds == 0
    }

    /// The clock that inodes are stamped with, now.
    #[must_use]
    pub fn now() -> Self {
        // The coarse clock is the one that the kernel stamps inodes with; the fine one runs up to
        // a tick ahead of it, so that a file changed after this call could look older than it.
        Self::of_clock(rustix::time::ClockId::RealtimeCoarse)
    }

    /// At least what any inode is stamped with until now.
    fn now_finely() -> Self {
        Self::of_clock(rustix::time::ClockId::Realtime)
    }

    fn of_clock(clock: rustix::time::ClockId) -> Self {
        let now = rustix::time::clock_gettime(clock);
        Self {
            seconds: now.tv_sec,
            nanoseconds: u32::try_from(now.tv_nsec).unwrap_or(0),
        }
    }
}

/// Waits for the next tick of the clock: the kernel stamps every inode that changes from now on with a later time than
/// the one returned, and has stamped no earlier change so.
///
/// The kernel's clock for inodes stands still between two ticks (1 to 10 ms); since 6.13 it uses a finer one for an
/// inode that was looked at in between.
#[must_use]
pub fn wait_for_next_tick() -> Timestamp {
    let now = Timestamp::now_finely();
    while Timestamp::now() <= now {
        std::thread::sleep(Duration::from_millis(1));
    }
    now
}

/// Waits for the next second, for inodes whose times are kept in whole seconds: whatever changed any of them before is
/// [over](Timestamp::is_over_at) at the time returned, and nothing that changes one from now on.
#[must_use]
pub fn wait_for_next_second() -> Timestamp {
    let next = Timestamp {
        seconds: Timestamp::now_finely().seconds + 1,
        nanoseconds: 0,
    };
    loop {
        let now = Timestamp::now();
        if now >= next {
            return next;
        }
        let is_far = now.seconds + 1 == next.seconds && now.nanoseconds < 990_000_000;
        let rest = if is_far {
            1_000_000_000 - now.nanoseconds
        } else {
            1_000_000
        };
        std::thread::sleep(Duration::from_nanos(rest.into()));
    }
}

/// Sets the mtime of an open file, which may be `UTIME_NOW`, and leaves the atime.
///
/// # Errors
/// What `futimens(3)` lists.
pub fn set_mtime(file: BorrowedFd<'_>, mtime: Timespec) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: mtime,
    };
    rustix::fs::futimens(file, &times)
}

/// The fields of an inode that unification looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Inode number.
    pub inode: u64,
    /// Bytes of content.
    pub size: u64,
    /// Bytes allocated on disk.
    pub allocated: u64,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Type and permission bits (`st_mode`).
    pub mode: u16,
    /// Count of names.
    pub link_count: u32,
    /// Owner.
    pub owner: u32,
    /// Group.
    pub group: u32,
}

impl Stamp {
    /// The fields to ask `statx` for.
    pub const MASK: StatxFlags = StatxFlags::BASIC_STATS;

    /// The stamp of an open file.
    ///
    /// # Errors
    /// What `statx(2)` lists.
    pub fn of(file: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, Self::MASK).map(Self::from)
    }

    /// The stamp of `name` in `directory`; of a symbolic link, the link's own.
    ///
    /// # Errors
    /// What `statx(2)` lists; `ENOENT` when the name is gone.
    pub fn at(directory: BorrowedFd<'_>, name: impl Arg) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        rustix::fs::statx(directory, name, flags, Self::MASK).map(Self::from)
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        u32::from(self.mode) & libc::S_IFMT == libc::S_IFREG
    }

    /// Whether it is setuid, setgid or sticky.
    #[must_use]
    pub fn has_special_bits(&self) -> bool {
        u32::from(self.mode) & (libc::S_ISUID | libc::S_ISGID | libc::S_ISVTX) != 0
    }

    /// Whether content and metadata are unchanged since `other` was read, as far as stamps show.
    #[must_use]
    pub fn is_unchanged_since(&self, other: &Self) -> bool {
        (self.inode, self.size, self.mtime, self.ctime)
            == (other.inode, other.size, other.mtime, other.ctime)
    }
}

impl From<Statx> for Stamp {
    fn from(found: Statx) -> Self {
        Self {
            inode: found.stx_ino,
            size: found.stx_size,
            allocated: found.stx_blocks * 512,
            mtime: found.stx_mtime.into(),
            ctime: found.stx_ctime.into(),
            mode: found.stx_mode,
            link_count: found.stx_nlink,
            owner: found.stx_uid,
            group: found.stx_gid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Timestamp, wait_for_next_second, wait_for_next_tick};

    fn time(seconds: i64, nanoseconds: u32) -> Timestamp {
        Timestamp {
            seconds,
            nanoseconds,
        }
    }

    #[test]
    fn a_time_in_whole_seconds_is_over_when_its_second_is() {
        let (coarse, fine) = (time(5, 0), time(5, 1));
        for (at, is_coarse_over, is_fine_over) in [
            (time(4, 999_999_999), false, false),
            (time(5, 0), false, false),
            (time(5, 1), false, false),
            (time(5, 2), false, true),
            (time(5, 999_999_999), false, true),
            (time(6, 0), true, true),
        ] {
            assert_eq!(coarse.is_over_at(at), is_coarse_over, "{at:?}");
            assert_eq!(fine.is_over_at(at), is_fine_over, "{at:?}");
        }
    }

    #[test]
    fn a_time_in_the_future_is_of_no_change_until_now() {
        let began = wait_for_next_tick();
        let now = Timestamp::now();
        assert!(time(now.seconds + 3600, 0).is_outside_since(began));
        assert!(time(now.seconds + 3600, 1).is_outside_since(began));
        assert!(time(began.seconds - 1, 0).is_outside_since(began));
        // What changes now may be stamped with these.
        assert!(!now.is_outside_since(began));
        assert!(!time(began.seconds, 0).is_outside_since(began));
        let began = wait_for_next_second();
        assert!(time(began.seconds - 1, 0).is_outside_since(began));
        assert!(!time(began.seconds, 0).is_outside_since(began));
    }
}
