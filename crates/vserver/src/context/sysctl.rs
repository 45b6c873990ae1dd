//! Kernel parameters of a guest: those that its namespaces have for themselves.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

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

/// Sets parameters in the namespaces of a guest whose init has been made.
///
/// # Errors
/// Which one the kernel refused, on one line.
pub fn apply(init: i32, parameters: &[(String, String)]) -> Result<(), String> {
    if parameters.is_empty() {
        return Ok(());
    }
    let parameters = parameters.to_vec();
    let pid = Pid::from_raw(init).ok_or("its init ended at once")?;
    let handle = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| format!("its init cannot be opened: {error}"))?;
    // A thread of its own, which is all that changes its namespaces. `/proc/sys` shows everybody
    // the parameters of the namespaces that he is in.
    let inside = std::thread::spawn(move || {
        let kinds = ThreadNameSpaceType::NETWORK | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION;
        move_into_thread_name_spaces(handle.as_fd(), kinds)
            .map_err(|error| format!("its namespaces cannot be entered: {error}"))?;
        parameters.iter().try_for_each(|(name, value)| {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            fs::write(path, value).map_err(|error| {
                let words = vhashify_sys::call_error::reason(&error);
                format!("sysctl {name} cannot be set to {value:?}: {words}")
            })
        })
    });
    inside
        .join()
        .unwrap_or_else(|_| Err("its kernel parameters could not be set".to_owned()))
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
