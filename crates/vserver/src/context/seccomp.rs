//! Which system calls a guest has not.
//!
//! Whole operating systems run in a guest, so the list is of denied calls, not of allowed ones. It has calls that
//! no capability guards, and calls that would give a guest new ground to attack from:
//!
//! - user namespaces, in which a guest would have every capability over what it mounts there;
//! - the keyring, the kernel's log and `io_uring`, which are the host's or pass by other filters;
//! - handles of files, modules, kernels, BPF, swap, clocks: a second wall behind the capabilities;
//! - leases, which on a shared inode would hold up other guests, and delegations, which would hold up the host where it
//!   links or renames in a directory of the guest: for 45 seconds each, again and again;
//! - writing into another process's terminal.

use rustix::thread::CapabilitySet;
use serde_json::{Value, json};
use vhashify::broker::commands::{DELEGATION, LEASE};

/// Calls that fail with EPERM, and the capability that, given to the guest, allows them.
const DENIED: &[(&[&str], Option<CapabilitySet>)] = &[
    (
        &[
            "add_key",
            "bpf",
            "create_module",
            "delete_module",
            "finit_module",
            "get_kernel_syms",
            "init_module",
            "ioperm",
            "iopl",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "kexec_file_load",
            "kexec_load",
            "keyctl",
            "lookup_dcookie",
            "nfsservctl",
            "open_by_handle_at",
            "perf_event_open",
            "query_module",
            "quotactl",
            "quotactl_fd",
            "request_key",
            "swapoff",
            "swapon",
            "sysfs",
            "_sysctl",
            "uselib",
            "userfaultfd",
            "ustat",
            "vm86",
            "vm86old",
        ],
        None,
    ),
    (
        &[
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "pivot_root",
            "setns",
            "umount",
            "umount2",
        ],
        Some(CapabilitySet::SYS_ADMIN),
    ),
    (&["acct"], Some(CapabilitySet::SYS_PACCT)),
    (&["syslog"], Some(CapabilitySet::SYSLOG)),
    (
        &["clock_settime", "clock_settime64", "settimeofday", "stime"],
        Some(CapabilitySet::SYS_TIME),
    ),
];

const CLONE_NEWUSER: u64 = 0x1000_0000;
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541C;

/// The filter of a guest with these capabilities, as OCI has it.
#[must_use]
pub fn profile(capabilities: CapabilitySet) -> Value {
    let mut rules: Vec<Value> = DENIED
        .iter()
        .filter(|(_, allowed_by)| !allowed_by.is_some_and(|needed| capabilities.contains(needed)))
        .map(|(names, _)| denied(names, libc::EPERM, &json!([])))
        .collect();
    let new_user = json!([{ "index": 0, "value": CLONE_NEWUSER, "valueTwo": CLONE_NEWUSER,
                             "op": "SCMP_CMP_MASKED_EQ" }]);
    rules.push(denied(&["clone", "unshare"], libc::EPERM, &new_user));
    // Its flags are in memory, which no filter sees; the C library falls back to clone.
    rules.push(denied(&["clone3"], libc::ENOSYS, &json!([])));
    for (command, errno) in [LEASE, DELEGATION] {
        let only = equal(1, command.into());
        rules.push(denied(&["fcntl", "fcntl64"], errno.raw_os_error(), &only));
    }
    for request in [TIOCSTI, TIOCLINUX] {
        rules.push(denied(&["ioctl"], libc::EPERM, &equal(1, request)));
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ARCHITECTURES,
        "syscalls": rules,
    })
}

/// Every way of calling the kernel that a program of the guest may have.
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURES: &[&str] = &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURES: &[&str] = &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];

fn denied(names: &[&str], errno: i32, arguments: &Value) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": arguments })
}

/// The low half alone: the kernel drops the high half of these arguments. `libcontainer` takes the
/// mask from the second value.
fn equal(index: u32, value: u64) -> Value {
    json!([{ "index": index, "value": value, "valueTwo": u64::from(u32::MAX),
             "op": "SCMP_CMP_MASKED_EQ" }])
}

#[cfg(test)]
mod tests {
    use super::{CapabilitySet, profile};

    #[test]
    fn no_guest_gets_a_delegation() {
        let profile = profile(CapabilitySet::all());
        let rules = profile["syscalls"].as_array().unwrap();
        let is_it = |rule: &&serde_json::Value| rule["args"][0]["value"] == super::DELEGATION.0;
        let rule = rules.iter().find(is_it).unwrap();
        assert_eq!(rule["errnoRet"], libc::EINVAL);
        assert_eq!(rule["names"], serde_json::json!(["fcntl", "fcntl64"]));
    }

    #[test]
    fn a_capability_lifts_what_it_is_for_and_nothing_else() {
        let plain = profile(CapabilitySet::empty()).to_string();
        let admin = profile(CapabilitySet::SYS_ADMIN).to_string();
        for call in ["\"mount\"", "\"keyctl\"", "\"syslog\"", "\"unshare\""] {
            assert!(plain.contains(call), "{call}");
        }
        assert!(!admin.contains("\"mount\""));
        for call in [
            "\"keyctl\"",
            "\"bpf\"",
            "\"open_by_handle_at\"",
            "\"syslog\"",
        ] {
            assert!(admin.contains(call), "{call}");
        }
    }
}
