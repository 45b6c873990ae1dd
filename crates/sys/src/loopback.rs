//! The loopback device of this thread's network namespace: `netdevice(7)`.

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Its name, as in `struct ifreq`.
const NAME: &[u8] = b"lo";

/// Brings it up; the kernel gives it its addresses then.
///
/// # Errors
/// The calls': `socket(2)`, `ioctl(2)`.
pub fn bring_up() -> io::Result<()> {
    let any = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `zeroed` asks that all zeros are a value: `ifreq` holds integers, and a union of integers and a pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME) {
        *to = from.cast_signed();
    }
    // SAFETY: SIOCGIFFLAGS takes a pointer to a `struct ifreq`, reads its name and writes its flags; `request` lives
    // until the call returns.
    if unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: reading a member of a union asks that it is initialised: the kernel has just written this one.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    // SAFETY: SIOCSIFFLAGS takes a pointer to a `struct ifreq` and reads it; `request` lives until the call returns.
    if unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
