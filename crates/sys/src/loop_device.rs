//! Loop devices, as far as they hold a file (`loop(4)`).

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Result;

use super::last_error;

/// `LOOP_GET_STATUS64` (`include/uapi/linux/loop.h`), which fills in a `struct loop_info64` of 232 bytes: the file's
/// device and its inode number come first.
const GET_STATUS64: libc::c_ulong = 0x4c05;
const WORDS_OF_STATUS: usize = 29;

/// The loop devices that may not be written to and have a file. One that may be written to has the file open for
/// writing.
#[must_use]
pub fn read_only_devices() -> Vec<PathBuf> {
    let listed = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    listed
        .filter(|entry| {
            let place = entry.path();
            let is_read_only = || fs::read(place.join("ro")).is_ok_and(|text| text == b"1\n");
            // The directory is there while the device has a file.
            entry.file_name().as_encoded_bytes().starts_with(b"loop")
                && place.join("loop").exists()
                && is_read_only()
        })
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}

/// The device (`st_dev`) and the inode number of a loop device's file.
///
/// # Errors
/// What `open(2)` and `loop(4)` list: `ENXIO` where it has none any more.
pub fn backing_file(device: &Path) -> Result<(u64, u64)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(device, flags, Mode::empty())?;
    let mut status = [0_u64; WORDS_OF_STATUS];
    // SAFETY: the request writes the 232 bytes of `struct loop_info64`, which is what is given; all bytes are valid.
    let got = unsafe { libc::ioctl(opened.as_raw_fd(), GET_STATUS64, status.as_mut_ptr()) };
    if got != 0 {
        return Err(last_error());
    }
    Ok((status[0], status[1]))
}
