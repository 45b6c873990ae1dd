//! Tests every kind of change on a marked file before a run shares anything under the guard.
//!
//! If a kernel lacks a hook, has renamed it or calls it elsewhere, changes would go through silently. So it is not enough
//! that the programs are attached: the guard must refuse every request that the kernel knows, and the file must be
//! unchanged afterwards.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, IFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::{Errno, Result};
use vhashify_sys::{flags, inode_requests, lease, procfs, tmpfile};

use super::error::GuardError;

/// A kind of change, and how to attempt it on a file that is open for reading.
type Change = (&'static str, fn(&OwnedFd) -> Result<()>);

const ACL: &str = "system.posix_acl_access";
const CAPABILITY: &str = "security.capability";
const KEPT: &str = "user.vhashify.kept";

const CHANGES: [Change; 20] = [
    ("open(O_WRONLY)", |file| {
        tmpfile::open_again(file, OFlags::WRONLY).map(drop)
    }),
    ("open(O_RDONLY|O_TRUNC)", |file| {
        tmpfile::open_again(file, OFlags::RDONLY | OFlags::TRUNC).map(drop)
    }),
    ("fchmod", |file| {
        rustix::fs::fchmod(file, Mode::from_raw_mode(0o755))
    }),
    ("fchown", |file| {
        rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(1)), None)
    }),
    ("futimens", |file| {
        let moment = Timespec {
            tv_sec: 1,
            tv_nsec: 1,
        };
        let times = Timestamps {
            last_access: moment,
            last_modification: moment,
        };
        rustix::fs::futimens(file, &times)
    }),
    ("fsetxattr", |file| set(file, KEPT, b"other")),
    ("fremovexattr", |file| rustix::fs::fremovexattr(file, KEPT)),
    ("fsetxattr of an ACL", |file| set(file, ACL, &acl(7))),
    ("fremovexattr of an ACL", |file| {
        rustix::fs::fremovexattr(file, ACL)
    }),
    // For these the kernel does not check write permission (`xattr_permission`, fs/xattr.c).
    ("fsetxattr of a capability", |file| {
        set(file, CAPABILITY, &capability(2))
    }),
    ("fremovexattr of a capability", |file| {
        rustix::fs::fremovexattr(file, CAPABILITY)
    }),
    ("ioctl(FS_IOC_SETFLAGS)", |file| {
        let flags = rustix::fs::ioctl_getflags(file)? - IFlags::SYNC;
        rustix::fs::ioctl_setflags(file, flags)
    }),
    ("ioctl(FS_IOC_FSSETXATTR)", |file| {
        inode_requests::clear_mark_by_fssetxattr(file.as_fd())
    }),
    ("file_setattr", |file| {
        inode_requests::clear_mark_by_file_setattr(file.as_fd())
    }),
    ("flock", |file| {
        rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)
    }),
    ("fcntl(F_SETLK)", |file| {
        rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockShared)
    }),
    ("fcntl(F_SETLEASE)", |file| lease::take(file.as_fd())),
    ("fcntl(F_SETDELEG)", |file| {
        inode_requests::take_delegation(file.as_fd())
    }),
    ("fcntl(F_SET_RW_HINT)", |file| {
        inode_requests::set_write_hint(file.as_fd())
    }),
    ("inotify_add_watch", |file| {
        let watcher = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC)?;
        let all = rustix::fs::inotify::WatchFlags::ALL_EVENTS;
        rustix::fs::inotify::add_watch(watcher, procfs::descriptor_path(file), all).map(drop)
    }),
];

/// Tests them on a new nameless file on the filesystem of `directory`, which must be registered. This process must hold
/// no permit.
///
/// # Errors
/// [`GuardError::LetsThrough`] if a change went through; a failed system call in preparation.
pub fn refuses_every_change(
    directory: BorrowedFd<'_>,
    path: &Path,
) -> std::result::Result<(), GuardError> {
    let failed = |call: &'static str| move |errno: Errno| GuardError::call(call, path, errno);
    let made = tmpfile::create(directory).map_err(failed("open(O_TMPFILE)"))?;
    rustix::io::write(&made, b"content").map_err(failed("write"))?;
    // On a filesystem without attributes or ACLs there are none to change.
    let has_attributes = set(&made, KEPT, b"kept").is_ok();
    let has_acls = set(&made, ACL, &acl(5)).is_ok();
    let has_capabilities = set(&made, CAPABILITY, &capability(1)).is_ok();
    flags::mark(made.as_fd()).map_err(failed("ioctl(FS_IOC_SETFLAGS)"))?;
    let file = tmpfile::open_again(&made, OFlags::RDONLY).map_err(failed("open"))?;
    // Closes the descriptor for writing: the kernel must refuse because of the mark, not because the file is busy.
    drop(made);
    let before = State::of(&file).map_err(failed("statx"))?;
    for (call, change) in CHANGES {
        let is_there = match call {
            call if call.ends_with("ACL") => has_acls,
            call if call.ends_with("capability") => has_capabilities,
            call if call.ends_with("xattr") => has_attributes,
            _ => true,
        };
        if !is_there {
            continue;
        }
        match change(&file) {
            Err(errno) if is_refusal(errno) || inode_requests::is_unknown(errno) => {}
            Err(errno) => return Err(GuardError::call(call, path, errno)),
            Ok(()) => return Err(GuardError::LetsThrough(call)),
        }
    }
    if State::of(&file).map_err(failed("statx"))? == before {
        Ok(())
    } else {
        Err(GuardError::LetsThrough("a change that was refused"))
    }
}

/// Whether the guard answers with this error.
fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::NOLCK)
}

/// Everything that the changes could change.
#[derive(Debug, PartialEq, Eq)]
struct State {
    mode: u32,
    owner: u32,
    size: i64,
    mtime: (i64, u64),
    flags: u32,
    kept: Option<Vec<u8>>,
    acl: Option<Vec<u8>>,
    capability: Option<Vec<u8>>,
}

impl State {
    fn of(file: &OwnedFd) -> Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        let attribute = |name: &str| {
            let mut value = [0; 256];
            let length = rustix::fs::fgetxattr(file, name, &mut value).ok()?;
            Some(value[..length].to_vec())
        };
        Ok(Self {
            mode: stat.st_mode,
            owner: stat.st_uid,
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            flags: rustix::fs::ioctl_getflags(file)?.bits(),
            kept: attribute(KEPT),
            acl: attribute(ACL),
            capability: attribute(CAPABILITY),
        })
    }
}

fn set(file: &OwnedFd, name: &str, value: &[u8]) -> Result<()> {
    rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
}

/// `system.posix_acl_access` (`include/uapi/linux/posix_acl_xattr.h`): version 2, then tag, permissions and id of
/// each entry. With a named user, the kernel cannot store it as a mode.
fn acl(of_user: u16) -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (0x01, 6, u32::MAX),
        (0x02, of_user, 1),
        (0x04, 4, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 4, u32::MAX),
    ];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `security.capability` (`include/uapi/linux/capability.h`): version 2, then the low half of the permitted and of the
/// inheritable set, then their high halves.
fn capability(permitted: u32) -> Vec<u8> {
    let words = [0x0200_0000, permitted, 0, 0, 0];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}
