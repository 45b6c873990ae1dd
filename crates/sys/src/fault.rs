//! Points at which a test makes a call fail, or kills or stops the process.
//!
//! Every call that changes a disk or reads a guest's files goes through [`at`] with its [`Point`]. An ordinary build only
//! makes the call. With the feature `fault-injection`, which only tests turn on, the environment lists faults as
//! `POINT:HIT:ACTION`, with commas between them:
//!
//! | action | effect at that hit of the point (the first hit is 1) |
//! | --- | --- |
//! | `kill-before`, `kill-after` | SIGKILL before or after the call |
//! | `stop-before`, `stop-after` | SIGSTOP before or after the call; the test acts at that moment and sends SIGCONT |
//! | `ENOSPC`, `EIO`, … | the call is not made, and fails with this error |
//! | `ENOSPC+`, … | the same, also at all later hits |
//! | `omit` | from the first hit on a defence is left out: no lease is taken or checked, nothing is synchronised |

#[cfg(not(feature = "fault-injection"))]
use rustix::io::Errno;

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A call that can be made to fail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $($(#[$doc])* $name,)* }

        impl Point {
            /// Every point.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in the environment.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

points! {
    /// `openat2` of a guest's directory, or of the store's.
    OpenDirectory = "open-directory",
    /// `getdents64` in a walk of a whole guest for names.
    Walk = "walk",
    /// `openat2` of a file, to read it.
    OpenFile = "open-file",
    /// `fcntl(F_SETLEASE)`.
    Lease = "lease",
    /// `pread` or `mmap` of a file's content.
    Read = "read",
    /// `mkdirat` in the store.
    ObjectDirectory = "object-directory",
    /// `linkat` of an inode's name in the store.
    ObjectLink = "object-link",
    /// `unlinkat` in the store.
    ObjectUnlink = "object-unlink",
    /// `fdatasync` of a file that becomes an object.
    ObjectSync = "object-sync",
    /// `ioctl(FS_IOC_SETFLAGS)` that sets the mark.
    Mark = "mark",
    /// `ioctl(FS_IOC_ENABLE_VERITY)` of a file that becomes an object.
    EnableVerity = "enable-verity",
    /// `ioctl(FS_IOC_SETFLAGS)` that removes the mark.
    Unmark = "unmark",
    /// `ioctl(FS_IOC_FIEMAP)`.
    MapExtents = "map-extents",
    /// `ioctl(FIDEDUPERANGE)`.
    ShareExtents = "share-extents",
    /// `syncfs` before names are replaced.
    Sync = "sync",
    /// `mkdirat` of the work directory and in it.
    WorkDirectory = "work-directory",
    /// `bpf` that has the guard turn back who comes for a displaced inode.
    TurnBack = "turn-back",
    /// `fremovexattr` that waits for changes of metadata under way.
    WaitForMetadata = "wait-for-metadata",
    /// `linkat` of a temporary name.
    TemporaryLink = "temporary-link",
    /// `renameat2(RENAME_EXCHANGE)` that replaces a name.
    Exchange = "exchange",
    /// `unlinkat` of a temporary name, which makes a replacement final.
    TemporaryUnlink = "temporary-unlink",
    /// `renameat2(RENAME_EXCHANGE)` that undoes a replacement.
    UndoExchange = "undo-exchange",
    /// `unlinkat` of a temporary name after a replacement was undone or not made.
    UndoUnlink = "undo-unlink",
    /// `renameat2(RENAME_EXCHANGE)` that undoes a replacement of a killed run.
    RecoverExchange = "recover-exchange",
    /// `unlinkat` of a temporary name that a killed run left.
    RecoverUnlink = "recover-unlink",
    /// `open(O_TMPFILE)` of a private copy.
    CopyCreate = "copy-create",
    /// `ioctl(FICLONE)` or `copy_file_range` into a private copy.
    CopyContent = "copy-content",
    /// `fchown`, `fchmod`, `fsetxattr` … of a private copy.
    CopyMetadata = "copy-metadata",
    /// `sync_file_range` of a private copy that a break puts in place.
    CopySync = "copy-sync",
    /// `fremovexattr` of a private copy, once all names lead to it.
    CopyUnmark = "copy-unmark",
    /// `futimens` of a directory.
    DirectoryTime = "directory-time",
    /// `rename` of an unusable index.
    IndexAside = "index-aside",
    /// The creation of a new index.
    IndexBegin = "index-begin",
    /// The commit of an update of the index.
    IndexCommit = "index-commit",
}

/// Makes `call`, unless a test injects a fault at this point.
///
/// # Errors
/// Those of `call`, and those that a test injects.
#[cfg(not(feature = "fault-injection"))]
#[inline]
pub fn at<T, E: From<Errno>>(_point: Point, call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    call()
}

/// Whether a test leaves out the defence at this point.
#[cfg(not(feature = "fault-injection"))]
#[inline]
#[must_use]
pub const fn is_omitted(_point: Point) -> bool {
    false
}

#[cfg(feature = "fault-injection")]
pub use injected::{at, is_omitted};

#[cfg(feature = "fault-injection")]
mod injected {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::io::Errno;
    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    /// The variable that lists the faults.
    const VARIABLE: &str = "VHASHIFY_FAULT";

    static HITS: [AtomicU64; Point::ALL.len()] = [const { AtomicU64::new(0) }; Point::ALL.len()];

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Action {
        KillBefore,
        KillAfter,
        StopBefore,
        StopAfter,
        Omit,
        Fail { errno: Errno, also_later: bool },
    }

    struct Fault {
        point: Point,
        hit: u64,
        action: Action,
    }

    /// Makes `call` with the faults that the environment lists for `point`.
    ///
    /// # Errors
    /// Those of `call`, and those that the environment lists.
    pub fn at<T, E: From<Errno>>(
        point: Point,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let hit = HITS[point as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let due = faults().iter().filter(|fault| fault.point == point);
        let mut dies_after = false;
        let mut stops_after = false;
        for fault in due {
            match fault.action {
                Action::KillBefore if fault.hit == hit => die(),
                Action::KillAfter if fault.hit == hit => dies_after = true,
                Action::StopBefore if fault.hit == hit => stop(),
                Action::StopAfter if fault.hit == hit => stops_after = true,
                Action::Fail { errno, also_later }
                    if fault.hit == hit || also_later && hit > fault.hit =>
                {
                    return Err(errno.into());
                }
                _ => {}
            }
        }
        let result = call();
        if dies_after {
            die();
        }
        if stops_after {
            stop();
        }
        result
    }

    /// Whether the environment leaves out the defence at `point`.
    #[must_use]
    pub fn is_omitted(point: Point) -> bool {
        let is_this = |fault: &Fault| fault.point == point && fault.action == Action::Omit;
        faults().iter().any(is_this)
    }

    fn die() {
        // Whether kill(2) works or not, this process must do nothing more.
        kill_process(getpid(), Signal::KILL).unwrap_or_else(|_| std::process::abort());
        loop {
            std::thread::park();
        }
    }

    /// Stops all threads, and returns after SIGCONT.
    #[allow(unsafe_code)]
    fn stop() {
        // `raise` signals this thread. If another thread took a signal to the process, this one could run on until all
        // are stopped.
        // SAFETY: `raise` takes any number, and SIGSTOP runs no handler.
        let failed = unsafe { libc::raise(libc::SIGSTOP) };
        assert_eq!(failed, 0, "SIGSTOP cannot be refused");
    }

    fn faults() -> &'static [Fault] {
        static FAULTS: OnceLock<Vec<Fault>> = OnceLock::new();
        FAULTS.get_or_init(|| {
            let text = std::env::var(VARIABLE).unwrap_or_default();
            let parts = text.split(',').filter(|part| !part.is_empty());
            #[allow(clippy::expect_used)] // A test with a wrong fault must not pass.
            parts
                .map(|part| parse(part).expect("a fault is POINT:HIT:ACTION"))
                .collect()
        })
    }

    fn parse(part: &str) -> Option<Fault> {
        let mut words = part.split(':');
        let name = words.next()?;
        let point = Point::ALL.iter().find(|point| point.name() == name)?;
        let hit = words.next()?.parse().ok()?;
        let action = match words.next()? {
            "kill-before" => Action::KillBefore,
            "kill-after" => Action::KillAfter,
            "stop-before" => Action::StopBefore,
            "stop-after" => Action::StopAfter,
            "omit" => Action::Omit,
            error => Action::Fail {
                errno: errno(error.trim_end_matches('+'))?,
                also_later: error.ends_with('+'),
            },
        };
        Some(Fault {
            point: *point,
            hit,
            action,
        })
    }

    fn errno(name: &str) -> Option<Errno> {
        Some(match name {
            "ENOSPC" => Errno::NOSPC,
            "EDQUOT" => Errno::DQUOT,
            "EIO" => Errno::IO,
            "EROFS" => Errno::ROFS,
            "EMFILE" => Errno::MFILE,
            "ENOMEM" => Errno::NOMEM,
            "EMLINK" => Errno::MLINK,
            _ => return None,
        })
    }
}
