//! Quotas of a filesystem's users (`quotactl(2)`), for kernels that have them.
#![allow(unsafe_code)] // No crate has `quotactl_fd`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `struct if_dqblk` of `linux/quota.h`, whose limits are counted in KiB.
#[repr(C)]
#[derive(Default)]
struct Limits {
    most_blocks: u64,
    preferred_blocks: u64,
    space: u64,
    most_inodes: u64,
    preferred_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// Obeys the quotas of the filesystem of `place` from now on.
pub fn enforce(place: &Path) {
    /// `QFMT_VFS_V1`.
    const FORMAT: u64 = 4;
    call(place, libc::Q_QUOTAON, FORMAT, std::ptr::null_mut());
}

/// How many KiB of it `user` may have at most; with 0, as many as there are.
pub fn limit(place: &Path, user: u32, most: u64) {
    /// `QIF_BLIMITS`.
    const BLOCK_LIMITS: u32 = 1;
    let mut limits = Limits {
        most_blocks: most,
        valid: BLOCK_LIMITS,
        ..Limits::default()
    };
    call(place, libc::Q_SETQUOTA, user.into(), &raw mut limits);
}

fn call(place: &Path, command: i32, id: u64, limits: *mut Limits) {
    let place = File::open(place).unwrap();
    let command = libc::QCMD(command, libc::USRQUOTA);
    // SAFETY: the kernel reads a `struct if_dqblk` there, or nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            place.as_raw_fd(),
            command,
            id,
            limits,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
