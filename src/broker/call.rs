//! What a system call that waits is about to change. Pure.
//!
//! Numbers are those of `asm/unistd_64.h` and `asm/unistd_32.h`. What the filter hands over and is not
//! in the table cannot be judged and fails with `ENOSYS`, as if the kernel did not have it: these are
//! the calls of the x32 convention, which stock kernels refuse anyhow.

use vhashify_sys::seccomp::Notification;

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The file that a path leads to.
    Path {
        /// The directory that it begins at (`AT_FDCWD`: the working directory).
        directory: i32,
        /// Where the path is in the caller's memory.
        path: u64,
        /// Whether a symbolic link at its end is followed.
        follows: bool,
        /// Whether an empty path, or none, is the descriptor `directory` itself.
        may_be_empty: bool,
        /// Whether it is to get another name, which whoever may not change it may be allowed to give it.
        is_linked: bool,
    },
    /// As `openat2(2)`, whose flags are in memory.
    Open2 {
        /// As above.
        directory: i32,
        /// As above.
        path: u64,
        /// Where the `struct open_how` is.
        how: u64,
    },
    /// An open file.
    Descriptor {
        /// Its number.
        number: i32,
        /// Whether it is to be locked for all who have this open file.
        is_lock: bool,
    },
    /// Nothing that is there already.
    Nothing,
    /// It cannot be told.
    Unknown,
}

const AT_FDCWD: i32 = libc::AT_FDCWD;
const NOFOLLOW: u64 = 0x100;
const FOLLOW: u64 = 0x400;
const EMPTY_PATH: u64 = 0x1000;

/// Calls by what they are about; the numbers of one architecture are led to these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Open,
    Openat,
    Openat2,
    /// The first argument is a path that is followed.
    Path,
    /// … that is not followed.
    PathItself,
    /// Directory and path, and flags in this argument, where there are any.
    At(Option<usize>),
    /// The first argument is a path that is not followed and gets another name.
    Link,
    /// The same; without a path it is the descriptor.
    AtOrDescriptor(Option<usize>),
    Linkat,
    Descriptor,
    Flock,
    Fcntl,
}

/// What `notification` asks.
#[must_use]
pub fn asked(notification: &Notification) -> Asked {
    let Some(kind) = kind(notification.architecture, notification.number) else {
        return Asked::Unknown;
    };
    let argument = notification.arguments;
    // The kernel takes the low half of an `int`.
    let int = |at: usize| i32::from_ne_bytes(low(argument[at]).to_ne_bytes());
    let path = |directory, path, follows, may_be_empty| Asked::Path {
        directory,
        path,
        follows,
        may_be_empty,
        is_linked: matches!(kind, Kind::Link | Kind::Linkat),
    };
    let flags = |at: Option<usize>| at.map_or(0, |at| argument[at]);
    match kind {
        Kind::Open => opened(argument[1], AT_FDCWD, argument[0]),
        Kind::Openat => opened(argument[2], int(0), argument[1]),
        Kind::Openat2 => Asked::Open2 {
            directory: int(0),
            path: argument[1],
            how: argument[2],
        },
        Kind::Path => path(AT_FDCWD, argument[0], true, false),
        Kind::PathItself | Kind::Link => path(AT_FDCWD, argument[0], false, false),
        Kind::At(at) | Kind::AtOrDescriptor(at) => {
            let flags = flags(at);
            let is_empty = flags & EMPTY_PATH != 0 || matches!(kind, Kind::AtOrDescriptor(_));
            path(int(0), argument[1], flags & NOFOLLOW == 0, is_empty)
        }
        Kind::Linkat => {
            let flags = argument[4];
            let is_empty = flags & EMPTY_PATH != 0;
            path(int(0), argument[1], flags & FOLLOW != 0, is_empty)
        }
        Kind::Descriptor => Asked::Descriptor {
            number: int(0),
            is_lock: false,
        },
        Kind::Flock => Asked::Descriptor {
            number: int(0),
            is_lock: true,
        },
        Kind::Fcntl => Asked::Descriptor {
            number: int(0),
            // A process's own locks do not belong to the open file.
            is_lock: matches!(int(1), F_OFD_SETLK | F_OFD_SETLKW),
        },
    }
}

const F_OFD_SETLK: i32 = 37;
const F_OFD_SETLKW: i32 = 38;

/// What an open with these flags asks.
#[must_use]
pub fn opened(flags: u64, directory: i32, path: u64) -> Asked {
    let flags = i32::from_ne_bytes(low(flags).to_ne_bytes());
    let has = |wanted: i32| flags & wanted == wanted;
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || has(libc::O_TRUNC);
    if !writes || has(libc::O_CREAT | libc::O_EXCL) || has(libc::O_PATH) || has(libc::O_TMPFILE) {
        return Asked::Nothing;
    }
    Asked::Path {
        directory,
        path,
        follows: !has(libc::O_NOFOLLOW),
        may_be_empty: false,
        is_linked: false,
    }
}

fn low(argument: u64) -> u32 {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// `AUDIT_ARCH_X86_64`.
pub const X86_64: u32 = 0xC000_003E;
/// `AUDIT_ARCH_I386`.
pub const I386: u32 = 0x4000_0003;
/// `AUDIT_ARCH_AARCH64`.
pub const AARCH64: u32 = 0xC000_00B7;

fn kind(architecture: u32, number: i32) -> Option<Kind> {
    match architecture {
        X86_64 => of_x86_64(number),
        I386 => of_i386(number),
        AARCH64 => of_aarch64(number),
        _ => None,
    }
    .or_else(|| of_all(number))
}

/// Calls since Linux 5.1 have one number on all architectures.
fn of_all(number: i32) -> Option<Kind> {
    Some(match number {
        // openat2
        437 => Kind::Openat2,
        // fchmodat2
        452 => Kind::At(Some(3)),
        // setxattrat, removexattrat
        463 | 466 => Kind::AtOrDescriptor(Some(2)),
        // file_setattr
        469 => Kind::AtOrDescriptor(Some(4)),
        _ => return None,
    })
}

fn of_x86_64(number: i32) -> Option<Kind> {
    Some(match number {
        2 => Kind::Open,
        257 => Kind::Openat,
        // creat, truncate, chmod, chown, utime, utimes, setxattr, removexattr
        85 | 76 | 90 | 92 | 132 | 235 | 188 | 197 => Kind::Path,
        // lchown, lsetxattr, lremovexattr
        94 | 189 | 198 => Kind::PathItself,
        86 => Kind::Link,
        // fchownat
        260 => Kind::At(Some(4)),
        // fchmodat
        268 => Kind::At(None),
        // futimesat, utimensat
        261 => Kind::AtOrDescriptor(None),
        280 => Kind::AtOrDescriptor(Some(3)),
        265 => Kind::Linkat,
        // fchmod, fchown, fsetxattr, fremovexattr, ioctl
        91 | 93 | 190 | 199 | 16 => Kind::Descriptor,
        73 => Kind::Flock,
        72 => Kind::Fcntl,
        _ => return None,
    })
}

fn of_i386(number: i32) -> Option<Kind> {
    Some(match number {
        5 => Kind::Open,
        295 => Kind::Openat,
        // creat, truncate, truncate64, chmod, chown, chown32, utime, utimes, setxattr, removexattr
        8 | 92 | 193 | 15 | 182 | 212 | 30 | 271 | 226 | 235 => Kind::Path,
        // lchown, lchown32, lsetxattr, lremovexattr
        16 | 198 | 227 | 236 => Kind::PathItself,
        9 => Kind::Link,
        298 => Kind::At(Some(4)),
        306 => Kind::At(None),
        299 => Kind::AtOrDescriptor(None),
        // utimensat, utimensat_time64
        320 | 412 => Kind::AtOrDescriptor(Some(3)),
        303 => Kind::Linkat,
        // fchmod, fchown, fchown32, fsetxattr, fremovexattr, ioctl
        94 | 95 | 207 | 228 | 237 | 54 => Kind::Descriptor,
        143 => Kind::Flock,
        // fcntl, fcntl64
        55 | 221 => Kind::Fcntl,
        _ => return None,
    })
}

fn of_aarch64(number: i32) -> Option<Kind> {
    Some(match number {
        56 => Kind::Openat,
        // truncate, setxattr, removexattr
        45 | 5 | 14 => Kind::Path,
        // lsetxattr, lremovexattr
        6 | 15 => Kind::PathItself,
        54 => Kind::At(Some(4)),
        53 => Kind::At(None),
        88 => Kind::AtOrDescriptor(Some(3)),
        37 => Kind::Linkat,
        // fchmod, fchown, fsetxattr, fremovexattr, ioctl
        52 | 55 | 7 | 16 | 29 => Kind::Descriptor,
        32 => Kind::Flock,
        25 => Kind::Fcntl,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Asked, I386, X86_64, asked};
    use vhashify_sys::seccomp::Notification;

    fn call(architecture: u32, number: i32, arguments: [u64; 6]) -> Asked {
        let mut notification = Notification::default();
        notification.architecture = architecture;
        notification.number = number;
        notification.arguments = arguments;
        asked(&notification)
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn numbers_are_the_c_librarys() {
        let known = |number: libc::c_long| {
            let number = i32::try_from(number).unwrap();
            call(X86_64, number, [1, 1, 1, 1, 1, 1]) != Asked::Unknown
        };
        for number in [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_creat,
            libc::SYS_truncate,
            libc::SYS_chmod,
            libc::SYS_fchmod,
            libc::SYS_fchmodat,
            libc::SYS_chown,
            libc::SYS_fchown,
            libc::SYS_lchown,
            libc::SYS_fchownat,
            libc::SYS_utime,
            libc::SYS_utimes,
            libc::SYS_futimesat,
            libc::SYS_utimensat,
            libc::SYS_setxattr,
            libc::SYS_lsetxattr,
            libc::SYS_fsetxattr,
            libc::SYS_removexattr,
            libc::SYS_lremovexattr,
            libc::SYS_fremovexattr,
            libc::SYS_link,
            libc::SYS_linkat,
            libc::SYS_flock,
            libc::SYS_fcntl,
            libc::SYS_ioctl,
        ] {
            assert!(known(number), "{number}");
        }
        assert!(!known(libc::SYS_read) && !known(0x4000_0000 | 2));
    }

    #[test]
    fn only_an_open_that_writes_to_what_may_be_there_is_asked_about() {
        let flags = |flags: i32| call(X86_64, 2, [7, u64::try_from(flags).unwrap(), 0, 0, 0, 0]);
        let path = |follows| Asked::Path {
            directory: -100,
            path: 7,
            follows,
            may_be_empty: false,
            is_linked: false,
        };
        assert_eq!(flags(libc::O_RDONLY), Asked::Nothing);
        assert_eq!(flags(libc::O_RDONLY | libc::O_TRUNC), path(true));
        assert_eq!(flags(libc::O_WRONLY | libc::O_NOFOLLOW), path(false));
        assert_eq!(flags(libc::O_RDWR | libc::O_CREAT), path(true));
        assert_eq!(
            flags(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL),
            Asked::Nothing
        );
        assert_eq!(flags(libc::O_RDWR | libc::O_PATH), Asked::Nothing);
    }

    #[test]
    fn arguments_are_as_the_kernel_takes_them() {
        let cwd = u64::from(u32::from_ne_bytes((-100_i32).to_ne_bytes()));
        // A 32-bit fchownat(AT_FDCWD, 5, …, AT_SYMLINK_NOFOLLOW).
        assert_eq!(
            call(I386, 298, [cwd, 5, 0, 0, 0x100, 0]),
            Asked::Path {
                directory: -100,
                path: 5,
                follows: false,
                may_be_empty: false,
                is_linked: false,
            }
        );
        // linkat follows only when told; futimens has no path.
        assert_eq!(
            call(X86_64, 265, [3, 5, 4, 6, 0, 0]),
            Asked::Path {
                directory: 3,
                path: 5,
                follows: false,
                may_be_empty: false,
                is_linked: true,
            }
        );
        assert_eq!(
            call(X86_64, 280, [3, 0, 0, 0, 0, 0]),
            Asked::Path {
                directory: 3,
                path: 0,
                follows: true,
                may_be_empty: true,
                is_linked: false,
            }
        );
        assert_eq!(
            call(X86_64, 72, [3, 38, 0, 0, 0, 0]),
            Asked::Descriptor {
                number: 3,
                is_lock: true
            }
        );
    }
}
