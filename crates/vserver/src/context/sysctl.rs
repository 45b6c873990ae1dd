//! Kernel parameters of a guest: those that its namespaces have for themselves.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use thiserror::Error;
use vhashify_sys::call_error::reason;

/// Parameters of a namespace for IPC, besides those below `fs.mqueue`.
const IPC: [&str; 11] = [
    "kernel.auto_msgmni",
    "kernel.msg_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmni",
];

/// Why a parameter cannot be a guest's own; `None` where it can.
#[must_use]
pub fn fault(name: &str, shares_network: bool) -> Option<&'static str> {
    let is_below = |top: &str| {
        name.strip_prefix(top)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    if is_below("net") {
        return shares_network.then_some("the guest shares the host's network");
    }
    match name {
        _ if is_below("fs.mqueue") || IPC.contains(&name) || name == "kernel.shmmax" => None,
        "kernel.hostname" => Some("use uts/nodename"),
        "kernel.domainname" => Some("use uts/domainname"),
        _ => Some("a stock kernel has one for all guests and the host"),
    }
}

/// Why kernel parameters of a guest could not be set.
#[derive(Debug, Error)]
pub enum SysctlError {
    /// Init was gone before.
    #[error("its init ended at once")]
    InitEnded,
    /// `pidfd_open(2)` of init.
    #[error("its init cannot be opened: {source}")]
    OpenInit {
        /// Why.
        source: io::Error,
    },
    /// `setns(2)`.
    #[error("its namespaces cannot be entered: {source}")]
    EnterNamespaces {
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the value.
    #[error("sysctl {name} cannot be set to {value:?}: {}", reason(source))]
    Write {
        /// The parameter.
        name: String,
        /// What was written.
        value: String,
        /// Why not.
        source: io::Error,
    },
    /// The thread panicked.
    #[error("its kernel parameters could not be set")]
    Panicked,
}

/// Sets parameters in the namespaces of a guest whose init has been made.
///
/// # Errors
/// The first that the kernel refused.
pub fn apply(init: i32, parameters: &[(String, String)]) -> Result<(), SysctlError> {
    if parameters.is_empty() {
        return Ok(());
    }
    let parameters = parameters.to_vec();
    let pid = Pid::from_raw(init).ok_or(SysctlError::InitEnded)?;
    let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| SysctlError::OpenInit {
        source: error.into(),
    })?;
    // A thread of its own, which is all that changes its namespaces. `/proc/sys` shows the parameters of the
    // namespaces that the reading thread is in.
    let inside = std::thread::spawn(move || {
        let kinds = ThreadNameSpaceType::NETWORK | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION;
        move_into_thread_name_spaces(handle.as_fd(), kinds).map_err(|error| {
            let source = error.into();
            SysctlError::EnterNamespaces { source }
        })?;
        parameters.into_iter().try_for_each(|(name, value)| {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            fs::write(path, &value).map_err(|source| SysctlError::Write {
                name,
                value,
                source,
            })
        })
    });
    inside.join().unwrap_or(Err(SysctlError::Panicked))
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn a_parameter_of_the_host_is_never_a_guests() {
        for own in [
            "net.ipv4.ip_forward",
            "kernel.sem",
            "fs.mqueue.msg_max",
            "kernel.shmmax",
        ] {
            assert_eq!(fault(own, false), None, "{own}");
        }
        for hosts in [
            "kernel.panic",
            "vm.swappiness",
            "fs.file-max",
            "net",
            "network.x",
            "fs.mqueuex.y",
            "kernel.core_pattern",
            "kernel.hostname",
            "kernel.sem.x",
            "",
        ] {
            assert!(fault(hosts, false).is_some(), "{hosts}");
        }
        assert!(fault("net.ipv4.ip_forward", true).is_some());
    }
}
