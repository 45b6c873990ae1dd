//! Which system calls of a guest wait for its broker: those that can change a shared inode, as far as
//! their arguments tell.
//!
//! | calls | which of them |
//! | --- | --- |
//! | `open`, `openat` | for writing or with `O_TRUNC`, but for `O_CREAT` with `O_EXCL`: nothing can be there |
//! | `creat`, `openat2`, `truncate` | all |
//! | `chmod`, `chown`, `utimes`, `setxattr`, `removexattr` families | all |
//! | `link`, `linkat` | all: a new name must not be one of the object |
//! | `flock` | all |
//! | `fcntl` | that set locks |
//! | `ioctl` | that set inode flags, project, generation or fs-verity |
//!
//! Reading costs nothing. What works on a descriptor that is open for writing (`write`, `ftruncate`,
//! `fallocate`, a shared mapping) need not wait: the open has.
//!
//! Calls that the host's libseccomp does not know by name (`fchmodat2` before 2.5.5; `setxattrat`,
//! `file_setattr`) cannot be made to wait. The guard refuses them.

use serde_json::{Value, json};

const ALWAYS: &[&str] = &[
    "creat",
    "openat2",
    "truncate",
    "truncate64",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "chown32",
    "fchown",
    "fchown32",
    "lchown",
    "lchown32",
    "fchownat",
    "utime",
    "utimes",
    "futimesat",
    "utimensat",
    "utimensat_time64",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "setxattrat",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "removexattrat",
    "file_setattr",
    "link",
    "linkat",
    "flock",
];

/// `F_SETLK`, `F_SETLKW`; `F_SETLK64`, `F_SETLKW64` of 32-bit programs; `F_OFD_SETLK`, `F_OFD_SETLKW`.
const LOCKS: [u32; 6] = [6, 7, 13, 14, 37, 38];

/// `FS_IOC_SETFLAGS` and `FS_IOC_SETVERSION`, of 64-bit and of 32-bit programs, `FS_IOC_FSSETXATTR`,
/// `FS_IOC_ENABLE_VERITY`.
const REQUESTS: [u32; 6] = [
    0x4008_6602,
    0x4004_6602,
    0x4008_7602,
    0x4004_7602,
    0x401C_5820,
    0x4080_6685,
];

/// Adds to a specification that these calls wait, and where their listener is handed over.
pub fn add(spec: &mut Value, socket: &str) {
    let seccomp = &mut spec["linux"]["seccomp"];
    if let Some(rules) = seccomp["syscalls"].as_array_mut() {
        rules.extend(rules_of_broker());
    }
    seccomp["listenerPath"] = json!(socket);
    if can_wait_killably() {
        seccomp["flags"] = json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]);
    }
}

/// Whether a caller can be made to wait so that only its death ends that (Linux 5.19, libseccomp 2.6).
/// Without it any signal does, and the call is made again.
fn can_wait_killably() -> bool {
    const LEVEL: u32 = 7;
    libseccomp::get_api() >= LEVEL
}

fn rules_of_broker() -> Vec<Value> {
    let mut rules = vec![waits(ALWAYS, &json!([]))];
    for (call, at) in [("open", 1), ("openat", 2)] {
        for flags in conditions_of_open() {
            rules.push(waits(&[call], &masked(at, flags.0, flags.1)));
        }
    }
    for command in LOCKS {
        rules.push(waits(&["fcntl", "fcntl64"], &masked(1, u32::MAX, command)));
    }
    for request in REQUESTS {
        rules.push(waits(&["ioctl"], &masked(1, u32::MAX, request)));
    }
    rules
}

/// Masks of the flags and what must be left: any of these.
fn conditions_of_open() -> Vec<(u32, u32)> {
    const MODE: u32 = 0o3;
    const CREATE: u32 = 0o100;
    const EXCLUSIVE: u32 = 0o200;
    const TRUNCATE: u32 = 0o1000;
    let mut conditions = vec![(TRUNCATE, TRUNCATE)];
    for mode in 1..=MODE {
        conditions.push((MODE | EXCLUSIVE, mode));
        // Without O_CREAT it means nothing.
        conditions.push((MODE | EXCLUSIVE | CREATE, mode | EXCLUSIVE));
    }
    conditions
}

fn waits(names: &[&str], arguments: &Value) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_NOTIFY", "args": arguments })
}

/// `libcontainer` takes the mask from the second value.
fn masked(index: u32, mask: u32, value: u32) -> Value {
    json!([{ "index": index, "value": value, "valueTwo": mask, "op": "SCMP_CMP_MASKED_EQ" }])
}

#[cfg(test)]
mod tests {
    use super::conditions_of_open;
    use crate::cow::broker::call::{Asked, opened};

    #[test]
    fn every_open_that_the_broker_is_asked_about_waits() {
        for flags in 0..0o2000_u32 {
            let waits = conditions_of_open()
                .iter()
                .any(|&(mask, value)| flags & mask == value);
            let is_asked = opened(flags.into(), 0, 0) != Asked::Nothing;
            assert!(waits || !is_asked, "{flags:o}");
            let mode = flags & 3;
            if mode == 0 && flags & 0o1000 == 0 {
                assert!(!waits, "a read: {flags:o}");
            }
        }
    }
}
