//! Loads a filter of system calls into this thread.

use std::io;
use std::os::fd::OwnedFd;

use libcontainer::oci_spec::runtime::LinuxSeccomp;
use libcontainer::seccomp::initialize_seccomp;
use vhashify_sys::seccomp::adopt;

/// Loads a filter of system calls into this thread; its children and the programs that it executes inherit it. Gives the
/// listener on which notifications arrive, if the filter has calls that wait for one.
///
/// # Errors
/// The filter cannot be made, or not be loaded; or this process has loaded one with a listener before.
pub fn load_filter(filter: &LinuxSeccomp) -> io::Result<Option<OwnedFd>> {
    let listener = initialize_seccomp(filter).map_err(io::Error::other)?;
    listener.map(adopt).transpose()
}
