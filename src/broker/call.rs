//! Decodes which file a waiting system call is about to change. Pure.
//!
//! The table has names of calls. The program that makes a broker gives a [`Resolver`], which knows their numbers on each
//! architecture. A call that the filter hands over and the table lacks fails with `ENOSYS`, as if the kernel did not
//! have it: these are the calls of the x32 convention, which stock kernels refuse anyhow.

use rustix::io::Errno;
use vhashify_sys::seccomp::Notification;

use super::commands::{DELEGATION, HINT, LEASE, LOCKS, LOCKS_OF_OPEN_FILES, REQUESTS};

/// The file that a call is about to change, as its arguments name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The file that a path leads to.
    Path {
        /// The directory that a relative path begins at (`AT_FDCWD`: the working directory).
        directory: i32,
        /// The path's address in the caller's memory.
        path: u64,
        /// Whether the call follows a symbolic link at the path's end.
        follows: bool,
        /// Whether an empty path, or none, means the descriptor `directory` itself.
        may_be_empty: bool,
        /// What the call does to the file.
        effect: Effect,
    },
    /// The file of an `openat2(2)`, whose flags are in the caller's memory.
    Open2 {
        /// As above.
        directory: i32,
        /// As above.
        path: u64,
        /// The address of the `struct open_how`.
        how: u64,
        /// Its size.
        size: u64,
    },
    /// The file behind a descriptor.
    Descriptor {
        /// Its number.
        number: i32,
        /// Whether the call locks the open file, for every process that has it.
        is_lock: bool,
    },
    /// No file that exists already, or none that it changes.
    Nothing,
    /// The call is not for a guest.
    Refused(Errno),
    /// The table lacks the call.
    Unknown,
}

/// What a call does to the file of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It changes it.
    Change,
    /// It gives it another name. A caller may do so that may not change it.
    Link,
    /// It watches it: of a shared file it would see what other guests do, and not what its own guest writes to a copy.
    Watch,
}

/// An architecture whose calls a kernel of x86-64 or arm64 takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit ARM.
    Aarch64,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::X86_64, Self::X86, Self::Aarch64];

    /// The number by which a [`Notification`] names it (`AUDIT_ARCH_…`, `linux/audit.h`).
    #[must_use]
    pub const fn audit_number(self) -> u32 {
        /// `__AUDIT_ARCH_64BIT` and `__AUDIT_ARCH_LE`; the rest is the ELF machine.
        const BITS_64: u32 = 0x8000_0000;
        const LITTLE_ENDIAN: u32 = 0x4000_0000;
        match self {
            Self::X86_64 => BITS_64 | LITTLE_ENDIAN | libc::EM_X86_64 as u32,
            Self::X86 => LITTLE_ENDIAN | libc::EM_386 as u32,
            Self::Aarch64 => BITS_64 | LITTLE_ENDIAN | libc::EM_AARCH64 as u32,
        }
    }
}

/// The number of a system call, by its name; `None` or a negative number where the architecture lacks the call.
pub type Resolver = fn(&str, Architecture) -> Option<i32>;

/// The arguments by which a call names its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arguments {
    Open,
    Openat,
    Openat2,
    /// The first argument is a path that is followed.
    Path,
    /// The first argument is a path that is not followed.
    PathItself,
    /// Directory and path, and flags in this argument, where there are any.
    At(Option<usize>),
    /// The first argument is a path that is not followed and gets another name.
    Link,
    /// As `At`; without a path the directory is the file.
    AtOrDescriptor(Option<usize>),
    Linkat,
    Descriptor,
    Flock,
    Fcntl,
    Ioctl,
    InotifyAddWatch,
    FanotifyMark,
}

const CALLS: &[(&[&str], Arguments)] = &[
    (&["open"], Arguments::Open),
    (&["openat"], Arguments::Openat),
    (&["openat2"], Arguments::Openat2),
    (
        &[
            "creat",
            "truncate",
            "truncate64",
            "chmod",
            "chown",
            "chown32",
            "utime",
            "utimes",
            "setxattr",
            "removexattr",
        ],
        Arguments::Path,
    ),
    (
        &["lchown", "lchown32", "lsetxattr", "lremovexattr"],
        Arguments::PathItself,
    ),
    (&["link"], Arguments::Link),
    (&["fchownat"], Arguments::At(Some(4))),
    (&["fchmodat"], Arguments::At(None)),
    (&["fchmodat2"], Arguments::At(Some(3))),
    (&["futimesat"], Arguments::AtOrDescriptor(None)),
    (
        &["utimensat", "utimensat_time64"],
        Arguments::AtOrDescriptor(Some(3)),
    ),
    (
        &["setxattrat", "removexattrat"],
        Arguments::AtOrDescriptor(Some(2)),
    ),
    (&["file_setattr"], Arguments::AtOrDescriptor(Some(4))),
    (&["linkat"], Arguments::Linkat),
    (
        &["fchmod", "fchown", "fchown32", "fsetxattr", "fremovexattr"],
        Arguments::Descriptor,
    ),
    (&["flock"], Arguments::Flock),
    (&["fcntl", "fcntl64"], Arguments::Fcntl),
    (&["ioctl"], Arguments::Ioctl),
    (&["inotify_add_watch"], Arguments::InotifyAddWatch),
    (&["fanotify_mark"], Arguments::FanotifyMark),
];

/// The calls that a broker decodes, by their numbers.
#[derive(Debug, Clone)]
pub struct CallTable {
    /// For each architecture its number and its calls, sorted by number.
    by_architecture: [(u32, Vec<(i32, Arguments)>); Architecture::ALL.len()],
}

impl CallTable {
    /// Asks `resolve` for the number of every call. A call that it does not know on an architecture is absent there.
    #[must_use]
    pub fn new(resolve: Resolver) -> Self {
        let numbered = |architecture: Architecture| {
            let named = CALLS.iter().flat_map(|&(names, arguments)| {
                let numbers = names.iter().filter_map(|name| resolve(name, architecture));
                numbers.map(move |number| (number, arguments))
            });
            let mut calls: Vec<(i32, Arguments)> = named.filter(|call| call.0 >= 0).collect();
            calls.sort_unstable_by_key(|call| call.0);
            (architecture.audit_number(), calls)
        };
        Self {
            by_architecture: Architecture::ALL.map(numbered),
        }
    }

    /// The file that the call of `notification` is about to change.
    #[must_use]
    pub fn decode(&self, notification: &Notification) -> Target {
        let arguments = self.arguments(notification.architecture, notification.number);
        let is_wide = notification.architecture != Architecture::X86.audit_number();
        arguments.map_or(Target::Unknown, |arguments| {
            arguments.target(&notification.arguments, is_wide)
        })
    }

    fn arguments(&self, architecture: u32, number: i32) -> Option<Arguments> {
        let mut all = self.by_architecture.iter();
        let (_, calls) = all.find(|(known, _)| *known == architecture)?;
        let place = calls.binary_search_by_key(&number, |call| call.0).ok()?;
        Some(calls[place].1)
    }
}

impl Arguments {
    /// `is_wide`: whether one argument holds 64 bits.
    fn target(self, argument: &[u64; 6], is_wide: bool) -> Target {
        let path = |directory, path, follows, may_be_empty| Target::Path {
            directory,
            path,
            follows,
            may_be_empty,
            effect: self.effect(),
        };
        let descriptor = |is_lock| Target::Descriptor {
            number: int(argument[0]),
            is_lock,
        };
        match self {
            Self::Open => open_target(argument[1], libc::AT_FDCWD, argument[0]),
            Self::Openat => open_target(argument[2], int(argument[0]), argument[1]),
            Self::Openat2 => Target::Open2 {
                directory: int(argument[0]),
                path: argument[1],
                how: argument[2],
                size: argument[3],
            },
            Self::Path => path(libc::AT_FDCWD, argument[0], true, false),
            Self::PathItself | Self::Link => path(libc::AT_FDCWD, argument[0], false, false),
            Self::At(at) | Self::AtOrDescriptor(at) => {
                let flags = at.map_or(0, |at| int(argument[at]));
                let may_be_empty =
                    flags & libc::AT_EMPTY_PATH != 0 || matches!(self, Self::AtOrDescriptor(_));
                let follows = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
                path(int(argument[0]), argument[1], follows, may_be_empty)
            }
            Self::Linkat => {
                let flags = int(argument[4]);
                let may_be_empty = flags & libc::AT_EMPTY_PATH != 0;
                let follows = flags & libc::AT_SYMLINK_FOLLOW != 0;
                path(int(argument[0]), argument[1], follows, may_be_empty)
            }
            Self::Descriptor => descriptor(false),
            Self::Flock => descriptor(true),
            Self::Fcntl => match low(argument[1]) {
                command if LOCKS_OF_OPEN_FILES.contains(&command) => descriptor(true),
                // A process's own locks do not belong to the open file.
                command if LOCKS.contains(&command) || command == HINT => descriptor(false),
                command if command == LEASE.0 => Target::Refused(LEASE.1),
                command if command == DELEGATION.0 => Target::Refused(DELEGATION.1),
                _ => Target::Nothing,
            },
            Self::Ioctl if REQUESTS.contains(&low(argument[1])) => descriptor(false),
            Self::Ioctl => Target::Nothing,
            Self::InotifyAddWatch => {
                const DONT_FOLLOW: u32 = 0x0200_0000;
                let follows = low(argument[2]) & DONT_FOLLOW == 0;
                path(libc::AT_FDCWD, argument[1], follows, false)
            }
            Self::FanotifyMark => {
                const ADD: u32 = 1;
                const DONT_FOLLOW: u32 = 4;
                /// Those of a mount or a filesystem need a capability that guests do not have.
                const OF_MORE: u32 = 0x10 | 0x100;
                let flags = low(argument[1]);
                if flags & ADD == 0 || flags & OF_MORE != 0 {
                    return Target::Nothing;
                }
                // The mask before them has 64 bits.
                let at = if is_wide { 3 } else { 4 };
                let follows = flags & DONT_FOLLOW == 0;
                path(int(argument[at]), argument[at + 1], follows, true)
            }
        }
    }

    fn effect(self) -> Effect {
        match self {
            Self::Link | Self::Linkat => Effect::Link,
            Self::InotifyAddWatch | Self::FanotifyMark => Effect::Watch,
            _ => Effect::Change,
        }
    }
}

/// The file that an open with these flags is about to change.
#[must_use]
pub fn open_target(flags: u64, directory: i32, path: u64) -> Target {
    let flags = int(flags);
    let has = |wanted: i32| flags & wanted == wanted;
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || has(libc::O_TRUNC);
    if !writes || has(libc::O_CREAT | libc::O_EXCL) || has(libc::O_PATH) || has(libc::O_TMPFILE) {
        return Target::Nothing;
    }
    Target::Path {
        directory,
        path,
        follows: !has(libc::O_NOFOLLOW),
        may_be_empty: false,
        effect: Effect::Change,
    }
}

/// The kernel takes the low half of an argument that is an `int`.
fn int(argument: u64) -> i32 {
    low(argument).cast_signed()
}

fn low(argument: u64) -> u32 {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::{Architecture, CallTable, Effect, Target};
    use rustix::io::Errno;
    use vhashify_sys::seccomp::Notification;

    /// Some of the numbers of `asm/unistd_64.h` and `asm/unistd_32.h`. `vserver` tests all calls with libseccomp's.
    fn number(name: &str, architecture: Architecture) -> Option<i32> {
        match (architecture, name) {
            (Architecture::X86_64, "open") => Some(2),
            (Architecture::X86_64, "fcntl") => Some(72),
            (Architecture::X86_64, "linkat") => Some(265),
            (Architecture::X86_64, "utimensat") => Some(280),
            // As libseccomp says that an architecture lacks a call.
            (Architecture::X86_64, "fcntl64") => Some(-10_009),
            (Architecture::X86, "fchownat") => Some(298),
            (Architecture::X86_64, "fanotify_mark") => Some(301),
            (Architecture::X86, "fanotify_mark") => Some(339),
            _ => None,
        }
    }

    fn call(architecture: Architecture, number_of_it: i32, arguments: [u64; 6]) -> Target {
        let mut notification = Notification::default();
        notification.architecture = architecture.audit_number();
        notification.number = number_of_it;
        notification.arguments = arguments;
        CallTable::new(number).decode(&notification)
    }

    #[test]
    fn a_call_without_a_number_is_unknown() {
        for (architecture, number) in [
            (Architecture::X86_64, 0),
            (Architecture::X86_64, -10_009),
            (Architecture::X86_64, 298),
            (Architecture::X86_64, 0x4000_0000 | 2),
            (Architecture::X86, 2),
            (Architecture::Aarch64, 2),
        ] {
            assert_eq!(call(architecture, number, [0; 6]), Target::Unknown);
        }
        let elsewhere = Notification::default();
        assert_eq!(CallTable::new(number).decode(&elsewhere), Target::Unknown);
    }

    #[test]
    fn only_an_open_that_writes_to_what_may_be_there_has_a_target() {
        let flags = |flags: i32| {
            let arguments = [7, u64::try_from(flags).unwrap(), 0, 0, 0, 0];
            call(Architecture::X86_64, 2, arguments)
        };
        let path = |follows| Target::Path {
            directory: -100,
            path: 7,
            follows,
            may_be_empty: false,
            effect: Effect::Change,
        };
        assert_eq!(flags(libc::O_RDONLY), Target::Nothing);
        assert_eq!(flags(libc::O_RDONLY | libc::O_TRUNC), path(true));
        assert_eq!(flags(libc::O_WRONLY | libc::O_NOFOLLOW), path(false));
        assert_eq!(flags(libc::O_RDWR | libc::O_CREAT), path(true));
        assert_eq!(
            flags(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL),
            Target::Nothing
        );
        assert_eq!(flags(libc::O_RDWR | libc::O_PATH), Target::Nothing);
    }

    #[test]
    fn arguments_are_as_the_kernel_takes_them() {
        let cwd = u64::from(u32::from_ne_bytes((-100_i32).to_ne_bytes()));
        // A 32-bit fchownat(AT_FDCWD, 5, …, AT_SYMLINK_NOFOLLOW).
        assert_eq!(
            call(Architecture::X86, 298, [cwd, 5, 0, 0, 0x100, 0]),
            Target::Path {
                directory: -100,
                path: 5,
                follows: false,
                may_be_empty: false,
                effect: Effect::Change,
            }
        );
        // linkat follows only when told; futimens has no path.
        assert_eq!(
            call(Architecture::X86_64, 265, [3, 5, 4, 6, 0, 0]),
            Target::Path {
                directory: 3,
                path: 5,
                follows: false,
                may_be_empty: false,
                effect: Effect::Link,
            }
        );
        assert_eq!(
            call(Architecture::X86_64, 280, [3, 0, 0, 0, 0, 0]),
            Target::Path {
                directory: 3,
                path: 0,
                follows: true,
                may_be_empty: true,
                effect: Effect::Change,
            }
        );
        assert_eq!(
            call(Architecture::X86_64, 72, [3, 38, 0, 0, 0, 0]),
            Target::Descriptor {
                number: 3,
                is_lock: true
            }
        );
    }
    #[test]
    fn a_watch_names_its_file_after_a_mask_of_64_bits() {
        let watch = |directory, path| Target::Path {
            directory,
            path,
            follows: true,
            may_be_empty: true,
            effect: Effect::Watch,
        };
        for (architecture, number, arguments, expected) in [
            (Architecture::X86_64, 301, [3, 1, 2, 4, 5, 0], watch(4, 5)),
            (Architecture::X86, 339, [3, 1, 2, 0, 4, 5], watch(4, 5)),
            (
                Architecture::X86_64,
                301,
                [3, 2, 2, 4, 5, 0],
                Target::Nothing,
            ),
            (
                Architecture::X86_64,
                301,
                [3, 0x11, 2, 4, 5, 0],
                Target::Nothing,
            ),
        ] {
            assert_eq!(call(architecture, number, arguments), expected);
        }
    }

    #[test]
    fn the_kernel_drops_the_high_half_of_a_command() {
        let fcntl = |command| call(Architecture::X86_64, 72, [3, command, 0, 0, 0, 0]);
        let is_lock = |is_lock| Target::Descriptor { number: 3, is_lock };
        for (command, expected) in [
            (6, is_lock(false)),
            ((1 << 40) + 37, is_lock(true)),
            (1036, is_lock(false)),
            ((1 << 32) + 1024, Target::Refused(Errno::ACCESS)),
            (1040, Target::Refused(Errno::INVAL)),
            (1030, Target::Nothing),
            (5, Target::Nothing),
        ] {
            assert_eq!(fcntl(command), expected, "{command:#x}");
        }
    }
}
