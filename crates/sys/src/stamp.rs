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
    /// The clock that inodes are stamped with, now.
    #[must_use]
    pub fn now() -> Self {
        // The coarse clock is the one that the kernel stamps inodes with; the fine one runs up to
        // a tick ahead of it, so that a file changed after this call could look older than it.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
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
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let now = Timestamp {
        seconds: now.tv_sec,
        nanoseconds: u32::try_from(now.tv_nsec).unwrap_or(0),
    };
    while Timestamp::now() <= now {
        std::thread::sleep(Duration::from_millis(1));
    }
    now
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
