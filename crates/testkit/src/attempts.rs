//! Every way to change a file that this system has.
#![allow(unsafe_code)] // Requests that no crate wraps.

use std::ffi::c_long;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, FlockOperation, IFlags, Timespec, Timestamps, XattrFlags};

/// What was tried, what the guard answers, and the try itself.
pub type Attempt = (&'static str, i32, fn(&Path) -> io::Result<()>);

/// A request that the kernel or the filesystem does not have.
const NOT_THERE: [i32; 4] = [libc::ENOSYS, libc::ENOTTY, libc::EOPNOTSUPP, libc::EINVAL];

/// Every way: its name, the error by which the guard refuses it, and how it is tried on a path.
pub const ATTEMPTS: &[Attempt] = &[
    ("access", libc::EPERM, |path| {
        Ok(rustix::fs::access(path, Access::WRITE_OK)?)
    }),
    ("open-write", libc::EPERM, |path| {
        OpenOptions::new().write(true).open(path).map(drop)
    }),
    ("open-append", libc::EPERM, |path| {
        OpenOptions::new().append(true).open(path).map(drop)
    }),
    ("open-read-truncate", libc::EPERM, |path| {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_TRUNC);
        options.open(path).map(drop)
    }),
    ("open-by-descriptor", libc::EPERM, |path| {
        let file = File::open(path)?;
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        OpenOptions::new().write(true).open(again).map(drop)
    }),
    ("truncate", libc::EPERM, |path| {
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
        // SAFETY: the path is a string that ends with a NUL and lives during the call.
        done(unsafe { libc::truncate(path.as_ptr(), 1) }.into())
    }),
    ("chmod", libc::EPERM, |path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o4755))
    }),
    ("chown", libc::EPERM, |path| {
        std::os::unix::fs::chown(path, Some(0), Some(0))
    }),
    ("utimes", libc::EPERM, |path| {
        let moment = Timespec {
            tv_sec: 1,
            tv_nsec: 1,
        };
        let times = Timestamps {
            last_access: moment,
            last_modification: moment,
        };
        Ok(rustix::fs::futimens(File::open(path)?, &times)?)
    }),
    ("setxattr", libc::EPERM, |path| {
        set_attribute(path, "user.kept", b"other")
    }),
    ("removexattr", libc::EPERM, |path| {
        Ok(rustix::fs::removexattr(path, "user.kept")?)
    }),
    // Of `security.*` the kernel does not ask who may write (`xattr_permission`, fs/xattr.c).
    ("set-capability", libc::EPERM, |path| {
        set_attribute(path, "security.capability", &capability(1 << 10))
    }),
    ("remove-capability", libc::EPERM, |path| {
        Ok(rustix::fs::removexattr(path, "security.capability")?)
    }),
    ("set-acl", libc::EPERM, |path| {
        set_attribute(
            path,
            "system.posix_acl_access",
            &acl(&[(1, 7), (4, 7), (0x20, 7)]),
        )
    }),
    ("remove-acl", libc::EPERM, |path| {
        Ok(rustix::fs::removexattr(path, "system.posix_acl_access")?)
    }),
    ("clear-mark", libc::EPERM, |path| {
        let file = File::open(path)?;
        let flags = rustix::fs::ioctl_getflags(&file)? - IFlags::SYNC;
        Ok(rustix::fs::ioctl_setflags(&file, flags)?)
    }),
    #[cfg(target_arch = "x86_64")]
    ("clear-mark-32-bit", libc::EPERM, clear_mark_of_32_bit),
    ("fssetxattr", libc::EPERM, |path| {
        // struct fsxattr of include/uapi/linux/fs.h, whose first word holds the flags.
        let file = File::open(path)?;
        let mut attributes = [0_u32; 7];
        let descriptor = file.as_raw_fd();
        // SAFETY: FS_IOC_FSGETXATTR writes the 28 bytes of struct fsxattr, which is what is given.
        let got = unsafe { libc::ioctl(descriptor, 0x801c_581f, attributes.as_mut_ptr()) };
        done(got.into())?;
        // FS_XFLAG_SYNC
        attributes[0] &= !0x20;
        // SAFETY: FS_IOC_FSSETXATTR reads as many.
        done(unsafe { libc::ioctl(descriptor, 0x401c_5820, attributes.as_ptr()) }.into())
    }),
    ("file-setattr", libc::EPERM, |path| {
        // struct file_attr, of no flags; the call came with 6.17.
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
        let attributes = [0_u64; 3];
        let call = 469;
        // SAFETY: the call reads the path up to its NUL and 24 bytes of attributes; both live.
        let result = unsafe {
            libc::syscall(
                call,
                libc::AT_FDCWD,
                path.as_ptr(),
                attributes.as_ptr(),
                24_usize,
                0,
            )
        };
        unless_not_there(done(result))
    }),
    ("defragment", libc::EPERM, |path| {
        // BTRFS_IOC_DEFRAG with its defaults; other filesystems do not know it.
        let file = OpenOptions::new().read(true).open(path)?;
        let nothing = std::ptr::null::<u8>();
        // SAFETY: the request takes a null pointer for "no argument".
        let result = unsafe { libc::ioctl(file.as_raw_fd(), 0x5000_9402, nothing) };
        unless_not_there(done(result.into()))
    }),
    ("flock", libc::ENOLCK, |path| {
        let lock = FlockOperation::NonBlockingLockExclusive;
        Ok(rustix::fs::flock(&File::open(path)?, lock)?)
    }),
    ("record-lock", libc::ENOLCK, |path| {
        let lock = FlockOperation::NonBlockingLockShared;
        Ok(rustix::fs::fcntl_lock(&File::open(path)?, lock)?)
    }),
    ("write-hint", libc::EPERM, |path| {
        // F_SET_RW_HINT and RWH_WRITE_LIFE_SHORT of include/uapi/linux/fcntl.h.
        let (file, hint) = (File::open(path)?, 2_u64);
        // SAFETY: the request reads 64 bits, which are given.
        done(unsafe { libc::fcntl(file.as_raw_fd(), 1036, &raw const hint) }.into())
    }),
    ("delegation", libc::EPERM, |path| {
        // F_SETDELEG, with struct delegation: no flags, F_RDLCK, nothing; the request came with 6.19.
        let (file, wanted) = (File::open(path)?, [0_u32; 2]);
        // SAFETY: the request reads the eight bytes of struct delegation, which are given.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), 1040, wanted.as_ptr()) };
        unless_not_there(done(result.into()))
    }),
    ("watch", libc::EPERM, |path| {
        let watcher = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC)?;
        let all = rustix::fs::inotify::WatchFlags::ALL_EVENTS;
        rustix::fs::inotify::add_watch(watcher, path, all)?;
        Ok(())
    }),
    ("lease", libc::ENOLCK, |path| {
        let file = File::open(path)?;
        // SAFETY: F_SETLEASE takes an integer and touches no memory.
        done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) }.into())
    }),
];

/// What a file has before it is marked: bytes, an attribute, an ACL and a capability.
pub fn prepare(path: &Path) {
    fs::write(path, b"original").unwrap();
    set_attribute(path, "user.kept", b"value").unwrap();
    let mut entries = acl(&[(1, 6), (2, 4), (4, 4), (0x10, 4), (0x20, 4)]);
    entries[4 + 8 + 4..4 + 16].copy_from_slice(&5_u32.to_le_bytes());
    set_attribute(path, "system.posix_acl_access", &entries).unwrap();
    set_attribute(path, "security.capability", &capability(1)).unwrap();
}

/// Sets the mark, as `chattr +SA` does.
pub fn mark(path: &Path) {
    let file = File::open(path).unwrap();
    let flags = rustix::fs::ioctl_getflags(&file).unwrap();
    rustix::fs::ioctl_setflags(&file, flags | IFlags::SYNC | IFlags::NOATIME).unwrap();
}

/// Tries each on the file of its name in `directory`, and prints what came of it.
#[allow(clippy::print_stdout)]
pub fn try_all(directory: &Path) {
    for (name, _, attempt) in ATTEMPTS {
        let result = attempt(&directory.join(name));
        let error = result
            .err()
            .map_or(0, |error| error.raw_os_error().unwrap_or(-1));
        println!("\nattempt {name} {error}");
    }
}

/// `security.capability` as of `include/uapi/linux/capability.h`: version 2, then the low and high halves of
/// what is permitted and of what is inheritable.
fn capability(permitted: u32) -> Vec<u8> {
    let words = [0x0200_0000, permitted, 0, 0, 0];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// `system.posix_acl_access` as of `include/uapi/linux/posix_acl_xattr.h`: version 2, then tag,
/// permissions and owner of each entry.
fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(u32::MAX.to_le_bytes());
    }
    bytes
}

fn set_attribute(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(
        path,
        name,
        value,
        XattrFlags::empty(),
    )?)
}

fn done(result: c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn unless_not_there(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match error.raw_os_error() {
        Some(code) if NOT_THERE.contains(&code) => Ok(()),
        _ => Err(error),
    })
}

/// `FS_IOC32_SETFLAGS`, as a program of 32 bits does it.
#[cfg(target_arch = "x86_64")]
fn clear_mark_of_32_bit(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let (protection, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
    );
    // SAFETY: a new mapping of one page, which is given back by nobody, in a process that ends soon.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, kind, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    // The flags are the first word of the page, 0: none. The system call is ioctl, 54.
    let mut result: i64 = 54;
    let descriptor = i64::from(file.as_raw_fd());
    // SAFETY: rbx is given back as it was; the other registers that the kernel may change are named.
    // The kernel reads four bytes of the page.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {descriptor}",
            "int 0x80",
            "xchg rbx, {descriptor}",
            descriptor = inout(reg) descriptor => _,
            inout("rax") result,
            in("rcx") 0x4004_6602_i64,
            in("rdx") page,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    #[allow(clippy::cast_possible_truncation)] // It is one of 32 bits.
    let answer = result as i32;
    if answer < 0 {
        return Err(io::Error::from_raw_os_error(-answer));
    }
    Ok(())
}
