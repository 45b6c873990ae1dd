//! Commands of `fcntl(2)` and `ioctl(2)` that belong to an inode, and so to every guest that shares it.

use rustix::io::Errno;

/// `F_SETLK`, `F_SETLKW`; `F_SETLK64`, `F_SETLKW64` of 32-bit programs.
pub const LOCKS: [u32; 4] = [6, 7, 13, 14];
/// `F_OFD_SETLK`, `F_OFD_SETLKW`.
pub const LOCKS_OF_OPEN_FILES: [u32; 2] = [37, 38];
/// `F_SET_RW_HINT`, which belongs to the inode.
pub const HINT: u32 = 1036;
/// `F_SETLEASE`: on a shared file it would hold up other guests. Samba and the like go on without one.
pub const LEASE: (u32, Errno) = (1024, Errno::ACCESS);
/// `F_SETDELEG`, since Linux 6.19: it would hold up the host. As of a kernel that has none.
pub const DELEGATION: (u32, Errno) = (1040, Errno::INVAL);

/// `FS_IOC_SETFLAGS` and `FS_IOC_SETVERSION`, of 64-bit and of 32-bit programs, `FS_IOC_FSSETXATTR`,
/// `FS_IOC_ENABLE_VERITY`.
pub const REQUESTS: [u32; 6] = [
    0x4008_6602,
    0x4004_6602,
    0x4008_7602,
    0x4004_7602,
    0x401C_5820,
    0x4080_6685,
];
